"""What a target is asked for, and what is refused before any network is looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from parallelize.predicting.asked_for import AskedFor
from parallelize.predicting.kernels import kernels
from parallelize.predicting.latency import milliseconds
from passes.errors import ParallelizeError
from tests.parallelize.predicting.targets import KNOWN
from tests.parallelize.small_models import images, vision


@pytest.fixture
def known(tmp_path: Path) -> str:
    KNOWN.write(tmp_path / "known.json")
    return str(tmp_path / "known.json")


def test_nothing_is_asked_for_where_no_target_is_named() -> None:
    assert AskedFor.of(None, None) is None


def test_the_first_precision_of_a_target_is_asked_for_unless_another_is_named(known: str) -> None:
    assert AskedFor.of(known, None) == AskedFor(KNOWN, "bf16")
    assert AskedFor.of(known, "fp32") == AskedFor(KNOWN, "fp32")


def test_a_precision_needs_a_target_that_has_numbers_for_it(known: str) -> None:
    with pytest.raises(ParallelizeError, match="has no numbers for tf32"):
        AskedFor.of(known, "tf32")
    with pytest.raises(ParallelizeError, match="The precision bf16 is that of a target, and none is named") as caught:
        AskedFor.of(None, "bf16")
    assert "--target h200" in caught.value.hint


def test_a_prediction_is_that_of_the_kernels_at_one_sample() -> None:
    asked_for = AskedFor(KNOWN, "fp32")
    wanted = milliseconds(kernels(vision(4), {"batch": 1}, "fp32"), KNOWN)
    assert asked_for.milliseconds(vision(4), images(5, 0)) == wanted


def test_a_reader_is_told_how_good_a_prediction_is() -> None:
    told = AskedFor(KNOWN, "bf16").as_dict()
    assert told == {
        "gpu": "NVIDIA Known",
        "precision": "bf16",
        "error": 0.05,
        "error_of": "what a test made up",
        "measured_on": {"date": "2026-01-02"},
    }
