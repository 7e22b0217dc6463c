"""A small error is not written as none."""

from __future__ import annotations

import math

import pytest

from parallelize.digits import written


@pytest.mark.parametrize(
    ("value", "form", "expected"),
    [
        (0.02314, ".4f", "0.0231"),
        (0.0, ".4f", "0.0000"),
        (0.0000234, ".4f", "2.3e-05"),
        (-0.0000234, ".4f", "-2.3e-05"),
        (0.000234, ".4f", "2.3e-04"),
        (12345.678, ".4f", "1.235e+04"),
        (math.inf, ".4f", "inf"),
        (math.nan, ".4f", "nan"),
        (0.0, ".2%", "0.00%"),
        (0.5, ".1%", "50.0%"),
        (0.0000123, ".2%", "0.001%"),
        (math.inf, ".2%", "inf%"),
        (39.44, ".2f", "39.44"),
    ],
)
def test_every_number_shows_a_digit_that_is_not_zero_unless_it_is_zero(value: float, form: str, expected: str) -> None:
    assert written(value, form) == expected
