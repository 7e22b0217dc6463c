"""Keep printed graphs off the terminal: where `torch.export` fails it prints all of the graph that it had by then.

What the model's own code prints on the error stream meanwhile passes.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, cast


class _Sieve:
    """A stream that lets all texts through but graphs."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        is_graph = "def forward(self" in text and "torch.ops." in text
        return len(text) if is_graph else cast(int, self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def without_graphs() -> Iterator[None]:
    """Drop graphs that are printed on the error stream."""
    with contextlib.redirect_stderr(cast(Any, _Sieve(sys.stderr))):
        yield
