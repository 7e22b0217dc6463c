"""How far one output is from another: statistics over all elements, from batches, in memory that does not grow.

    |d|, d = y - r        r: the reference
    |d| / |r|             where r is not 0
    cosine                <y, r> / (|y| |r|)
    SNR                   10 log10(|r|^2 / |d|^2) dB
    passes                |d| <= atol + rtol |r|, as numpy.allclose has it

Maxima, means, cosine, SNR and tolerances are exact up to float64. Medians and quantiles come from a histogram of every
element's float32 error, with 4,096 bins between two powers of two: they are right to 1/8,192. NaN and infinity enter no
statistic; one of them is enough to fail. Of outputs that are no floating-point numbers the share that differs counts.
"""

from __future__ import annotations

import decimal
import math
from dataclasses import dataclass

import torch
from torch import Tensor

_DROPPED_BITS = 11  # of a float32's 23 bits of mantissa: 12 stay, the bins
_BINS = 1 << (31 - _DROPPED_BITS)
_DIGITS = 4  # of a tolerance that is proposed


@dataclass(frozen=True)
class Spread:
    """Errors of all elements: the largest, the mean, the median and one more quantile."""

    max: float
    mean: float
    median: float
    quantile: float


@dataclass(frozen=True)
class Tolerance:
    """|d| <= atol + rtol |r|."""

    atol: float = 0.0
    rtol: float = 0.0


@dataclass(frozen=True)
class OutputErrors:
    """One output of one network against the reference.

    Attributes:
        name: of the output.
        elements: compared in all.
        non_finite: elements that are NaN or infinite in either of the two.
        differing: share of elements that are not equal.
        failing: elements outside of the given tolerance; those that differ where the output is of integers.
        absolute: |d|; None for integers and bools, and where nothing is finite.
        relative: |d| / |r| where r is not 0; None where it is 0 everywhere, too.
        cosine: similarity of the two outputs as vectors; None where one of them is 0.
        snr: in dB; infinite where they are equal.
        needed_atol: the smallest atol that passes at the given rtol, rounded up to four digits.
        needed_rtol: the smallest rtol that passes at the given atol, rounded up likewise; infinite where none does.
    """

    name: str
    elements: int
    non_finite: int
    differing: float
    failing: int
    absolute: Spread | None = None
    relative: Spread | None = None
    cosine: float | None = None
    snr: float | None = None
    needed_atol: float | None = None
    needed_rtol: float | None = None


class ErrorHistogram:
    """Sum, maximum and a fine histogram of numbers of at least 0."""

    def __init__(self) -> None:
        self.count, self.total, self.max = 0, 0.0, 0.0
        self._bins = torch.zeros(_BINS, dtype=torch.int64)

    def add(self, values: Tensor) -> None:
        """Take in a flat float64 tensor."""
        if values.numel() == 0:
            return
        self.count += values.numel()
        self.total += float(values.sum())
        self.max = max(self.max, float(values.max()))
        bits = values.clamp_max(torch.finfo(torch.float32).max).float().view(torch.int32) >> _DROPPED_BITS
        self._bins += torch.bincount(bits, minlength=_BINS)

    def quantile(self, share: float) -> float:
        """The smallest number that at least `share` of all are not above, up to the width of its bin."""
        rank = max(1, math.ceil(share * self.count))
        place = int(torch.searchsorted(self._bins.cumsum(0), rank))
        edges = torch.tensor([place << _DROPPED_BITS, (place + 1) << _DROPPED_BITS], dtype=torch.int32)
        low, high = edges.view(torch.float32).tolist()
        return 0.0 if place == 0 else min((low + high) / 2, self.max)

    def spread(self, share: float) -> Spread | None:
        """The statistics, or None where there are no numbers."""
        if self.count == 0:
            return None
        return Spread(self.max, self.total / self.count, self.quantile(0.5), self.quantile(share))


class OutputComparison:
    """Takes in an output batch by batch."""

    def __init__(self, name: str, tolerance: Tolerance, quantile: float) -> None:
        self.name, self._tolerance, self._quantile = name, tolerance, quantile
        self._elements = self._non_finite = self._differing = self._failing = 0
        self._absolute, self._relative = ErrorHistogram(), ErrorHistogram()
        self._dot = self._ours = self._reference = self._noise = 0.0
        self._needed_atol = self._needed_rtol = 0.0
        self._is_float = True

    def add(self, reference: Tensor, ours: Tensor) -> None:
        """Compare two tensors of one shape."""
        self._elements += reference.numel()
        if not (reference.is_floating_point() or ours.is_floating_point()):
            differing = int((reference != ours).sum())
            self._is_float, self._differing, self._failing = (
                False,
                self._differing + differing,
                self._failing + differing,
            )
            return
        r, y = reference.double().flatten(), ours.double().flatten()
        self._differing += int((r != y).sum())
        finite = r.isfinite() & y.isfinite()
        self._non_finite += int((~finite).sum())
        self._add_finite(r[finite], y[finite])

    def _add_finite(self, r: Tensor, y: Tensor) -> None:
        d, size = (y - r).abs(), r.abs()
        atol, rtol = self._tolerance.atol, self._tolerance.rtol
        self._absolute.add(d)
        self._relative.add(d[size > 0] / size[size > 0])
        self._dot += float(y @ r)
        self._ours, self._reference = self._ours + float(y @ y), self._reference + float(r @ r)
        self._noise += float(d @ d)
        self._failing += int((d > atol + rtol * size).sum())
        if d.numel():
            over = (d - atol).clamp_min(0)
            ratios = torch.where(over > 0, over / size, torch.zeros_like(over))
            self._needed_atol = max(self._needed_atol, float((d - rtol * size).max()))
            self._needed_rtol = max(self._needed_rtol, float(ratios.max()))

    def result(self) -> OutputErrors:
        """What was found."""
        share = self._differing / max(self._elements, 1)
        if not self._is_float:
            return OutputErrors(self.name, self._elements, 0, share, failing=self._failing)
        norms = math.sqrt(self._ours) * math.sqrt(self._reference)
        is_whole = self._non_finite == 0
        return OutputErrors(
            self.name,
            self._elements,
            self._non_finite,
            share,
            self._failing + self._non_finite,
            absolute=self._absolute.spread(self._quantile),
            relative=self._relative.spread(self._quantile),
            cosine=self._dot / norms if norms > 0 else None,
            snr=self._snr(),
            needed_atol=rounded_up(self._needed_atol) if is_whole else math.inf,
            needed_rtol=rounded_up(self._needed_rtol) if is_whole else math.inf,
        )

    def _snr(self) -> float | None:
        if self._noise == 0:
            return math.inf
        return 10 * math.log10(self._reference / self._noise) if self._reference > 0 else None


def rounded_up(value: float) -> float:
    """The next number of four digits that is not below, so that a tolerance may be typed as it is printed."""
    if value == 0 or math.isinf(value):
        return value
    context = decimal.Context(prec=_DIGITS, rounding=decimal.ROUND_CEILING)
    return float(context.create_decimal_from_float(value * (1 + 1e-12)))
