"""How networks are measured: tolerances that were not given are none, and percentiles are shares of a hundred."""

from __future__ import annotations

import pytest

from parallelize.measuring.options import CompareOptions, _metrics, _percentiles
from parallelize.measuring.output_errors import Tolerance
from passes.errors import ParallelizeError


@pytest.mark.parametrize(
    ("options", "tolerance", "judges"),
    [
        (CompareOptions(), Tolerance(0.0, 0.0), False),
        (CompareOptions(atol=0.0), Tolerance(0.0, 0.0), True),
        (CompareOptions(rtol=0.1), Tolerance(0.0, 0.1), True),
        (CompareOptions(atol=0.2, rtol=0.1), Tolerance(0.2, 0.1), True),
    ],
)
def test_a_tolerance_judges_where_either_part_was_given(
    options: CompareOptions, tolerance: Tolerance, judges: bool
) -> None:
    assert (options.tolerance, options.judges) == (tolerance, judges)


def test_percentiles_are_numbers_with_commas() -> None:
    assert _percentiles("50, 99.9,0,100") == (50.0, 99.9, 0.0, 100.0)


@pytest.mark.parametrize("text", ["", "50,", "p50", "-1", "101", "nan", "50;90"])
def test_what_are_no_percentiles_are_refused(text: str) -> None:
    with pytest.raises(ParallelizeError) as caught:
        _percentiles(text)
    assert str(caught.value) == f"The percentiles {text!r} are not numbers from 0 to 100."
    assert caught.value.hint == "Use --percentile 50,90,99."


def test_the_help_says_where_a_metric_is_the_default() -> None:
    assert _metrics().startswith("kl (default for logits), relative-l2 (default elsewhere), cosine, ")
