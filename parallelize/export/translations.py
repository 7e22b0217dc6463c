"""The exporter's translations of operators, read once, and the operators that have one.

`torch.onnx.export` parses the source of its thousand and more translations anew for each file, which takes longer than
a small network does; a conversion writes several files. What it read is kept for each opset. Where a version of torch
keeps its translations elsewhere, they are read each time, as it does by itself.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def kept_translations() -> Iterator[None]:
    """While this is open, exports to one opset share what is read; none may hand in translations of its own."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:
        yield
        return
    registry: Any = ONNXRegistry
    original = vars(registry)["from_torchlib"]
    registry.from_torchlib = _once(original)
    try:
        yield
    finally:
        registry.from_torchlib = original


def translated(opset: int) -> frozenset[Any]:
    """The operators that the exporter translates as they are; none where this version of torch does not say."""
    with kept_translations():
        try:
            from torch.onnx._internal.exporter._registration import ONNXRegistry
        except ImportError:
            return frozenset()
        registry: Any = ONNXRegistry.from_torchlib(opset_version=opset)
        return frozenset(form.fx_target for forms in registry.functions.values() for form in forms)


@functools.cache
def _once(reads: Any) -> Any:
    """The class method, which reads for each opset once."""
    kept: Any = functools.cache(reads.__func__)
    return classmethod(kept)
