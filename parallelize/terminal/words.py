"""Numbers with their nouns, as sentences need them."""

from __future__ import annotations

from collections.abc import Sequence


def counted(number: int, noun: str) -> str:
    """Such as "1 block" and "2 blocks"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(names: Sequence[str], before_last: str = "or") -> str:
    """Such as "a, b or c"."""
    *others, last = names
    return f"{', '.join(others)} {before_last} {last}" if others else last
