"""Times as people write them: a number with a unit, or without one in milliseconds.

1.5 ms    1500us    0.0015 s    1.5
"""

from __future__ import annotations

import math
import re

from passes.errors import ParallelizeError

UNITS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3, "": 1.0}  # in milliseconds
_WRITTEN = re.compile(r"(?P<number>.*?)\s*(?P<unit>[a-zA-Zµ]*)", re.DOTALL)
_HINT = "Give a number with us, ms or s, such as 1.5ms; a plain number is milliseconds."


def milliseconds(value: float | str, what: str) -> float:
    """Read 1.5, "1.5", "1.5ms", "1500 us" or "0.0015s".

    Args:
        value: as it was given.
        what: it is the time of, for a sentence.

    Raises:
        ParallelizeError: no time, an unknown unit, or one that is not above zero.
    """
    text = str(value).strip()
    written = _WRITTEN.fullmatch(text)
    unit = None if written is None else UNITS.get(written["unit"])
    try:
        number = math.nan if written is None or unit is None else float(written["number"]) * unit
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ParallelizeError(f"The {what} {text!r} is not a time above zero.", _HINT)
    return number
