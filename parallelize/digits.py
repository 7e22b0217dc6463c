"""Numbers as tables write them: with the decimals of their column, and significant digits where these show none."""

from __future__ import annotations

import math

_LEAST = 1e-3  # below, four decimals leave one digit or none
_MOST = 1e4  # from here on, decimals make a column too wide


def written(value: float, form: str = ".4f") -> str:
    """A number in the form of its column: 0.0231, 2.3e-05, 1.234e+04, inf; and 0.0000 only where it is zero.

    Args:
        value: the number.
        form: a format of decimals or of percent, such as ".4f" or ".2%".
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:{form}}"
    if form.endswith("%"):
        text = f"{value:{form}}"
        return text if any(digit in text for digit in "123456789") else f"{100 * value:.1g}%"
    if abs(value) >= _MOST:
        return f"{value:.4g}"
    return f"{value:.1e}" if form == ".4f" and abs(value) < _LEAST else f"{value:{form}}"
