"""Depths to measure are given as numbers with commas."""

from __future__ import annotations

import pytest

from parallelize.exploring.options import _depths
from passes.errors import ParallelizeError


def test_depths_are_read_in_their_order() -> None:
    assert _depths(None) is None
    assert _depths("3,2, 6") == (3, 2, 6)


@pytest.mark.parametrize("text", ["", "2,", "two", "2.5", "2-4"])
def test_what_are_no_numbers_are_refused(text: str) -> None:
    with pytest.raises(ParallelizeError) as caught:
        _depths(text)
    assert str(caught.value) == f"The depths {text!r} are no numbers."
