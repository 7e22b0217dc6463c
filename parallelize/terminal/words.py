"""Numbers with their nouns, as sentences need them."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Such as "1 block" and "2 blocks"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
