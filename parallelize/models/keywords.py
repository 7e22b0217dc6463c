"""A `forward` that takes any inputs by name, `forward(self, **batch)`: the exporter is told which they are.

It binds example inputs and free dimensions by the signature of `forward`, where names that are not written out do not
occur. So for as long as it runs, the signature has them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

_ANY = inspect.Parameter.VAR_KEYWORD


def takes_any(module: nn.Module) -> bool:
    """Whether `forward` takes inputs by any name."""
    return any(parameter.kind is _ANY for parameter in inspect.signature(module.forward).parameters.values())


@contextmanager
def written_out(module: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Give `forward` a parameter for each name that it takes as one of any."""
    if not takes_any(module):
        yield
        return
    forward, signature = module.forward, inspect.signature(module.forward)
    known = [parameter for parameter in signature.parameters.values() if parameter.kind is not _ANY]
    more = [name for name in names if name not in {parameter.name for parameter in known}]

    @functools.wraps(forward)
    def named(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    added = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in more]
    named.__signature__ = signature.replace(parameters=[*known, *added])  # type: ignore[attr-defined]
    own = module.__dict__.get("forward")
    module.forward = named
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
