"""What a report tells of a cast: an error that is no number is none, and the way that was taken tells its own."""

from __future__ import annotations

from math import inf, nan

from parallelize.export.precision import KeptInFp32, PrecisionRecord
from parallelize.export.precision_result import CastError, PrecisionResult

PLAIN, STATE = KeptInFp32(), KeptInFp32(state=True)


def test_errors_that_are_no_numbers_are_none_and_the_one_that_was_taken_counts() -> None:
    record = PrecisionRecord("fp16", STATE, ((PLAIN, inf), (STATE, 0.5)), "relative-l2", wide=("n",), why="n is large")
    told = PrecisionResult.of(record)
    assert told.errors == (CastError(PLAIN, None), CastError(STATE, 0.5))
    assert (told.dtype, told.kept_in_fp32, told.error, told.metric) == ("fp16", STATE, 0.5, "relative-l2")
    assert (told.out_of_range, told.kept_for_range) == ("n is large", ("n",))


def test_what_was_not_measured_has_no_error() -> None:
    assert PrecisionResult.of(PrecisionRecord("fp32")) == PrecisionResult("fp32", None, (), None, None, ())
    assert PrecisionResult.of(PrecisionRecord("fp32")).error is None
    assert PrecisionResult.of(PrecisionRecord("bf16", PLAIN)).error is None
    assert PrecisionResult.of(PrecisionRecord("fp16", PLAIN, ((PLAIN, nan),), "kl")).error is None
