"""Fields of dataclasses that a command line may offer: default, help and range are written once, at the field.

The metadata of such a field is {"option": {"help": ..., "shows_default": ..., ...}}, plain values, so that nothing of a
command line is imported here.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any, TypeVar

T = TypeVar("T")


def offered(default: T, text: str, *, least: float | None = None, most: float | None = None) -> T:
    """A field with a default that a command line may offer.

    Args:
        default: not shown where it is None.
        text: the help, one or two sentences.
        least: the smallest value that is taken.
        most: the largest one.
    """
    said = {"help": text, "shows_default": default is not None, "least": least, "most": most}
    made: Any = field(default=default, metadata={"option": said})
    return made  # type: ignore[no-any-return]  # dataclasses takes the field, a type checker the type of its default
