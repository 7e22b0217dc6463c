"""What a report tells of a cast."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from parallelize.export.precision import KeptInFp32, PrecisionRecord
from passes.precision.cast_precision import Precision


@dataclass(frozen=True)
class CastError:
    """A way to cast, and its error against the program before; None where that is no number."""

    kept_in_fp32: KeptInFp32
    error: float | None


@dataclass(frozen=True)
class PrecisionResult:
    """What was cast; see `parallelize.export.precision.PrecisionRecord`.

    Attributes:
        dtype: of the model that was exported.
        kept_in_fp32: None where nothing was cast.
        kept_for_range: names of nodes that stay in fp32 because a sample leaves the range there.
        out_of_range: what left it, in words.
        metric: what the errors are.
        errors: of every way that was tried.
    """

    dtype: Precision
    kept_in_fp32: KeptInFp32 | None
    kept_for_range: tuple[str, ...]
    out_of_range: str | None
    metric: str | None
    errors: tuple[CastError, ...]

    @staticmethod
    def of(record: PrecisionRecord) -> PrecisionResult:
        """From what a cast recorded."""
        errors = tuple(CastError(kept, error if isfinite(error) else None) for kept, error in record.errors)
        out_of_range, metric = record.why or None, record.metric or None
        return PrecisionResult(record.dtype, record.kept, record.wide, out_of_range, metric, errors)

    @property
    def error(self) -> float | None:
        """Of the way that was taken; None where it was not measured."""
        return next((tried.error for tried in self.errors if tried.kept_in_fp32 == self.kept_in_fp32), None)
