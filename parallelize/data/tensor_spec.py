"""What a tensor is that a program reads or returns: its name, its shape with free dimensions by name, its dtype."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch.utils._sympy import functions

OTHER_SIZE = 16  # of a free dimension that is no batch, where nothing else is known


@dataclass(frozen=True)
class TensorSpec:
    """What a program reads or returns.

    Attributes:
        name: unique among the inputs, or among the outputs, of a program.
        shape: sizes; a string is a dimension left free, by its name ("batch") or as an expression of names ("2*batch").
        dtype: element type.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: torch.dtype

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of the free dimensions, in order and each once; expressions are left out."""
        return tuple(dict.fromkeys(size for size in self.shape if isinstance(size, str) and size.isidentifier()))

    def sizes(self, known: Mapping[str, int], other: int = OTHER_SIZE) -> tuple[int, ...]:
        """The shape in numbers: free dimensions take their size from `known`, the rest of them get `other`."""
        return tuple(size if isinstance(size, int) else _evaluate(size, known, other) for size in self.shape)


def _evaluate(expression: str, known: Mapping[str, int], other: int) -> int:
    """The size that an expression of dimension names stands for."""
    if expression.isidentifier():
        return known.get(expression, other)
    words = re.findall(r"[A-Za-z_]\w*\b(?!\()", expression)
    sizes = {word: sympy.Integer(known.get(word, other)) for word in words}
    return int(sympy.sympify(expression, locals={**_functions(expression), **sizes}))


def _functions(expression: str) -> dict[str, Any]:
    """The functions that an expression calls, such as TruncToInt: the exporter's own, where SymPy may have none."""
    called = re.findall(r"([A-Za-z_]\w*)\(", expression)
    return {name: getattr(functions, name) for name in called if hasattr(functions, name)}
