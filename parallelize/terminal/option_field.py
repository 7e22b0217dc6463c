"""Fields of dataclasses that are options of commands: default, help and range are written once, at the field.

    @dataclass(frozen=True)
    class HealOptions:
        batch_size: int = option(64, "Samples in a step.", least=1)

Python reads a default there as ever; `parallelize.cli.takes` makes options of such fields. No typer is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")
KEY = "option"  # in the metadata of a field


@dataclass(frozen=True)
class OptionField:
    """What a command says of a field.

    Attributes:
        help: one or two sentences.
        least: the smallest value that is taken.
        metavar: what stands for the value in the help; None is its type.
        shows_default: whether the help ends in the default.
    """

    help: str
    least: float | None = None
    metavar: str | None = None
    shows_default: bool = True


def option(
    default: T, text: str, *, least: float | None = None, metavar: str | None = None, shows_default: bool | None = None
) -> T:
    """A field of a dataclass that commands offer as an option; a default of None is not shown unless asked for."""
    shown = default is not None if shows_default is None else shows_default
    made: Any = field(default=default, metadata={KEY: OptionField(text, least, metavar, shown)})
    return made  # type: ignore[no-any-return]  # dataclasses takes the field, a type checker the type of its default
