"""Operators that are another one under a second name, with the same arguments in the same order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from torch import fx

from passes.graph.operators import aten
from passes.graph.replacing import Replacing

Spelling: TypeAlias = Callable[[Replacing, fx.Node], "fx.Node | None"]
Pieces: TypeAlias = Sequence[Callable[[Replacing, fx.Node], fx.Node]]

_NAMES = {  # a second name -> the first, for every overload of both
    "__and__": "bitwise_and",
    "__or__": "bitwise_or",
    "__xor__": "bitwise_xor",
    "absolute": "abs",
    "arccos": "acos",
    "arccosh": "acosh",
    "arcsin": "asin",
    "arcsinh": "asinh",
    "arctan": "atan",
    "arctan2": "atan2",
    "arctanh": "atanh",
    "clip": "clamp",
    "concat": "cat",
    "concatenate": "cat",
    "divide": "div",
    "fix": "trunc",
    "greater": "gt",
    "greater_equal": "ge",
    "less": "lt",
    "less_equal": "le",
    "linalg_matmul": "matmul",
    "multiply": "mul",
    "negative": "neg",
    "not_equal": "ne",
    "row_stack": "vstack",
    "special_erf": "erf",
    "special_exp2": "exp2",
    "special_expit": "sigmoid",
    "special_expm1": "expm1",
    "special_log1p": "log1p",
    "special_logsumexp": "logsumexp",
    "subtract": "sub",
    "true_divide": "div",
    "unsafe_chunk": "chunk",
    "unsafe_split": "split",
    "unsafe_split_with_sizes": "split_with_sizes",
}


def _renamed() -> dict[Any, Any]:
    found: dict[Any, Any] = {
        aten.max.other: aten.maximum.default,
        aten.min.other: aten.minimum.default,
        aten.split.sizes: aten.split_with_sizes.default,
        aten.swapaxes.default: aten.transpose.int,
        aten.swapdims.default: aten.transpose.int,
        aten.special_softmax.default: aten.softmax.int,
        aten.special_log_softmax.default: aten.log_softmax.int,
    }
    for second, first in _NAMES.items():
        for overload in getattr(aten, second).overloads():
            if overload in getattr(aten, first).overloads():
                found[getattr(getattr(aten, second), overload)] = getattr(getattr(aten, first), overload)
    return found


RENAMED: dict[Any, Any] = _renamed()
