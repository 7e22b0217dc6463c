"""Which entries of two outputs count as numbers, and how far apart the two are there.

A logit that is -inf, or that was filled with the least number of its dtype, is no size to measure an error by: beside
one, 1 and 100 are equal up to nothing. So the entries of a reference r and of an output y are told apart:

    numbers     r is finite and below its limit                  |y - r| counts
    patterns    r is NaN, infinite, or a fill                    y must be NaN, the same infinity, or such a fill
    codes       integers and bools: classes, ranks, masks        y is equal or not; 9 instead of 2 is no error of 7

Only entries that are real count, where a mask says which are. The **limit** is 1e30, or the largest number of a
narrower dtype. It is lower where a constant such as -1e9 stands for "forbidden": the largest magnitude of all, at least
1e4 and 100 times as large as every other, and either there to the bit more than once or with a single digit. A network
computes no such thing. Where half precision holds the same fill, it is its least number, so a fill of y need only be
beyond twice the largest number of r.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

HUGE = 1e30
CODES_TOLERANCE = 0.02  # share of codes that may differ by rounding: ranks of values that are nearly equal
_LEAST_FILL, _APART = 1e4, 100.0
_LARGEST_HALF = torch.finfo(torch.float16).max
_PIECE = 2**22  # elements looked at at a time


@dataclass(frozen=True)
class Scale:
    """What tells numbers from fills in one output.

    Attributes:
        limit: magnitude from which an entry of the reference is a fill.
        floor: magnitude from which an entry of another output stands for a fill.
        largest: magnitude of the largest number.
    """

    limit: float
    floor: float
    largest: float


@dataclass(frozen=True, eq=False)
class Entries:
    """What counts of a pair of outputs, bool tensors of their shape.

    Attributes:
        numbers: entries that are compared by their difference.
        codes: integers and bools that count.
        differ: patterns and codes that are not the same in both.
    """

    numbers: Tensor
    codes: Tensor
    differ: Tensor


@dataclass(frozen=True)
class Change:
    """How far a list of outputs is from another.

    Attributes:
        numbers: the largest difference over the largest number of each output; infinite where a pattern, a shape or a
            dtype is another one.
        codes: the largest share of an output's codes that differ.
    """

    numbers: float = 0.0
    codes: float = 0.0

    @property
    def largest(self) -> float:
        """The larger of the two."""
        return max(self.numbers, self.codes)

    def __str__(self) -> str:
        """The end of a sentence: by ..."""
        if math.isinf(self.numbers):
            return "infinity: one has a number where the other has another infinity, NaN or none"
        codes = f"{self.codes:.1%} of its integers" if self.codes else ""
        if self.codes > CODES_TOLERANCE or not self.numbers:
            return codes or "nothing"
        return f"{self.numbers:.1e} of the largest output"

    def within(self, tolerance: float) -> bool:
        """Whether the two are the same up to rounding."""
        return self.numbers <= tolerance and self.codes <= CODES_TOLERANCE


class Values(Protocol):
    """An output that is there part by part, as a tensor is asked for it."""

    @property
    def shape(self) -> torch.Size:
        """Samples first."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of its elements."""
        ...

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Tensor: ...

    def numel(self) -> int:
        """How many elements it has."""
        ...

    def is_floating_point(self) -> bool:
        """Whether its elements are floating."""
        ...

    def is_complex(self) -> bool:
        """Whether its elements are complex."""
        ...


def is_code(value: Values) -> bool:
    """Whether an output holds integers or bools."""
    return not (value.is_floating_point() or value.is_complex())


def scale(reference: Values, real: Tensor | None = None) -> Scale:
    """Where fills of an output begin.

    Args:
        reference: the output, of all samples where they are at hand.
        real: bool that spreads over it, None where all of it counts.
    """
    if is_code(reference):
        return Scale(math.inf, math.inf, 0.0)
    limit = min(HUGE, torch.finfo(reference.dtype).max)
    largest, times = _largest_below(reference, real, limit)
    while largest >= _LEAST_FILL and (times > 1 or _is_written(largest)):
        rest, times = _largest_below(reference, real, largest)
        if not 0 < rest * _APART <= largest:
            break
        limit, largest = largest, rest
    return Scale(limit, min(limit, max(_LEAST_FILL, 2 * largest)), largest)


def _largest_below(reference: Values, real: Tensor | None, limit: float) -> tuple[float, int]:
    """The largest magnitude below a limit and how often it is there, piece by piece: outputs may be large."""
    largest, times = 0.0, 0
    for piece, mask in _pieces(reference, real):
        sizes = piece.detach().abs()
        below = torch.where((sizes < limit) if mask is None else (sizes < limit) & mask, sizes, 0.0)
        most = float(below.max())
        if most >= largest:
            count = int((below == most).sum())
            largest, times = most, count + (times if most == largest else 0)
    return largest, times


def _pieces(value: Values, real: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Parts of an output along its first axis."""
    if value.numel() <= _PIECE or value.ndim == 0:
        whole = value if isinstance(value, Tensor) else value[:]
        return iter([(whole, real)] if value.numel() else [])
    step = max(1, len(value) * _PIECE // value.numel())
    parts = [slice(start, start + step) for start in range(0, len(value), step)]
    return ((value[part], real if real is None or len(real) == 1 else real[part]) for part in parts)


def _is_written(value: float) -> bool:
    """Whether a number is one that somebody wrote down: it has a single digit, or is the largest of a dtype."""
    return value == _LARGEST_HALF or math.isclose(value, float(f"{value:.0e}"), rel_tol=1e-7)


def entries(reference: Tensor, other: Tensor, real: Tensor | None = None, known: Scale | None = None) -> Entries:
    """Which entries of a reference and another output of its shape count, and as what.

    Args:
        reference: the output that is right.
        other: the one that is compared with it.
        real: bool that spreads over both, false at padding; None where all of it counts.
        known: the scale of the reference where this is a part of it.
    """
    everywhere = torch.ones_like(reference, dtype=torch.bool)
    counts = everywhere if real is None else everywhere & real
    if is_code(reference):
        return Entries(~everywhere, counts, counts & (reference != other))
    at = known or scale(reference, real)
    sizes, others = reference.abs(), other.abs()
    numbers = counts & (sizes < at.limit)
    same_sign = torch.signbit(reference.real) == torch.signbit(other.real)
    is_filled = reference.isfinite() & other.isfinite() & (others >= at.floor) & same_sign
    alike = (reference == other) | (reference.isnan() & other.isnan()) | is_filled
    return Entries(numbers, ~everywhere, counts & ~numbers & ~alike)


def change(before: Sequence[Tensor], after: Sequence[Tensor], real: Sequence[Tensor | None] | None = None) -> Change:
    """How far outputs are from a reference.

    Args:
        before: the reference.
        after: as many outputs.
        real: for each where it is real, None where all of it counts.
    """
    masks = [None] * len(before) if real is None else real
    parts = [_change(a.detach(), b.detach(), mask) for a, b, mask in zip(before, after, masks, strict=True)]
    return Change(max((p.numbers for p in parts), default=0.0), max((p.codes for p in parts), default=0.0))


def _change(before: Tensor, after: Tensor, real: Tensor | None) -> Change:
    if before.shape != after.shape or before.dtype != after.dtype:
        return Change(math.inf)
    found = entries(before, after, real)
    if is_code(before):
        return Change(0.0, int(found.differ.sum()) / max(1, int(found.codes.sum())))
    if found.differ.any():
        return Change(math.inf)
    if not found.numbers.any():
        return Change()
    wide = torch.complex128 if before.is_complex() else torch.float64
    left, right = before[found.numbers].to(wide), after[found.numbers].to(wide)
    difference = float((left - right).abs().max())
    return Change(math.inf if math.isnan(difference) else difference / max(float(left.abs().max()), 1e-30))


def largest_change(
    before: Sequence[Tensor], after: Sequence[Tensor], real: Sequence[Tensor | None] | None = None
) -> float:
    """The largest change of a list of outputs: of numbers over the largest number of each, of codes the share.

    Args:
        before: the reference.
        after: as many outputs.
        real: for each output bool that spreads over it, false at padding; None where all of it counts.
    """
    return change(before, after, real).largest
