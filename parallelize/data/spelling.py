"""Shapes of inputs as they are spelled on the command line.

--input  [name:]SIZExSIZE...[@dtype]      1x3x224x224    ids:batchx128@int64    codes:4*batchx50@int64

A size is a number or the name of a dimension that stays free; `4*batch` is four rows for each sample. An x separates
sizes, so no name has an x in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from passes.errors import ParallelizeError

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
    "int64": torch.int64,
    "int32": torch.int32,
    "int16": torch.int16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
_SPELLING = re.compile(r"(?:(?P<name>[A-Za-z_]\w*):)?(?P<shape>[\w*]+)(?:@(?P<dtype>\w+))?", re.ASCII)
_SIZE = re.compile(r"\d+|(?:[1-9]\d*\*)?[A-Za-z_]\w*", re.ASCII)
_INPUT_HINT = "Spell it as [name:]SIZExSIZE...[@dtype], such as 1x3x224x224 or ids:batchx128@int64."


@dataclass(frozen=True)
class InputSpec:
    """The shape of one input as the user gave it.

    Attributes:
        name: the parameter of `forward` that it is for; None for an input that is passed by its place.
        shape: sizes; a string is a dimension that stays free, by its name or a multiple of it ("4*batch").
        dtype: element type.
    """

    name: str | None
    shape: tuple[int | str, ...]
    dtype: torch.dtype = torch.float32


def parse_input(text: str) -> InputSpec:
    """Read `[name:]SIZExSIZE...[@dtype]`.

    Raises:
        ParallelizeError: another spelling, an unknown dtype, or a size of zero.
    """
    found = _SPELLING.fullmatch(text)
    parts = found["shape"].split("x") if found else []
    if found is None or any(_SIZE.fullmatch(part) is None for part in parts):
        raise ParallelizeError(f"The input {text!r} is not a shape.", _INPUT_HINT)
    dtype = found["dtype"] or "float32"
    if dtype not in DTYPES:
        raise ParallelizeError(
            f"The input {text!r} has the unknown dtype {dtype!r}.", f"Use one of {', '.join(DTYPES)}."
        )
    shape = tuple(int(part) if part.isdigit() else part for part in parts)
    if 0 in shape:
        raise ParallelizeError(f"The input {text!r} has a size of zero.", _INPUT_HINT)
    return InputSpec(found["name"], shape, DTYPES[dtype])


def parse_inputs(texts: Iterable[str] | None) -> tuple[InputSpec, ...]:
    """Read every one; None is none of them.

    Raises:
        ParallelizeError: as `parse_input`.
    """
    return tuple(parse_input(text) for text in texts or ())
