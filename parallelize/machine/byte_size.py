"""Amounts of memory as people spell them: 2GiB, 512MiB, 1.5 GB, or a plain number of bytes."""

from __future__ import annotations

import math
import re

from passes.errors import ParallelizeError

_UNITS = {"": 1, "b": 1} | {
    prefix + unit: base**power
    for power, prefix in enumerate("kmgt", 1)
    for unit, base in (("ib", 1024), ("b", 1000), ("", 1024))
}
_SPELLED = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def read_size(given: int | str, least: int = 1) -> int:
    """The bytes of such an amount.

    Raises:
        ParallelizeError: it is none, or less than `least`.
    """
    found = _SPELLED.fullmatch(str(given))
    factor = _UNITS.get(found[2].lower()) if found else None
    if found is None or factor is None:
        raise ParallelizeError(f"{str(given)!r} is no amount of memory.", "Give it as in 2GiB or 512MiB.")
    size = float(found[1]) * factor
    if not math.isfinite(size) or size < least:
        raise ParallelizeError(
            f"{str(given)!r} is too little memory to work with.", f"Give at least {spell_size(least)}."
        )
    return int(size)


def spell_size(size: int) -> str:
    """Such as 512MiB, in the largest unit that leaves a number of one or more."""
    for power, prefix in ((4, "Ti"), (3, "Gi"), (2, "Mi"), (1, "Ki")):
        if size >= 1024**power:
            return f"{size / 1024**power:g}{prefix}B"
    return f"{size}B"
