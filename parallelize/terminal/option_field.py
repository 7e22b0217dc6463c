"""Fields of dataclasses that are options of commands: default, help and range are written once, at the field.

    @dataclass(frozen=True)
    class HealOptions:
        batch_size: int = option(64, "Samples in a step.", least=1)

Python reads a default there as ever; `parallelize.cli.takes` makes options of such fields. A field whose type no
command line has says how it is spelled there, and a field that is a dataclass of options itself gives its options to
the command. No typer is imported here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")
KEY = "option"  # in the metadata of a field


@dataclass(frozen=True)
class Spelling:
    """How a command line gives a value.

    Attributes:
        type: of what is given.
        default: where nothing is.
        read: makes the value of what is given.
    """

    type: Any
    default: Any = None
    read: Callable[[Any], Any] = lambda given: given


@dataclass(frozen=True)
class OptionField:
    """What a command says of a field.

    Attributes:
        help: one or two sentences.
        least: the smallest value that is taken.
        most: the largest one.
        metavar: what stands for the value in the help; None is its type.
        shows_default: whether the help ends in the default.
        name: of the option; None is that of the field.
        choices: the values that are taken; empty where the type tells them.
        spelling: None where the type of the field is one of command lines.
        is_argument: whether it is given by its place.
    """

    help: str
    least: float | None = None
    most: float | None = None
    metavar: str | None = None
    shows_default: bool = True
    name: str | None = None
    choices: tuple[str, ...] = ()
    spelling: Spelling | None = None
    is_argument: bool = False


@dataclass(frozen=True)
class OptionsField:
    """A field that is a dataclass of options.

    Attributes:
        group: the dataclass.
        only: its fields that a command offers beside those of the outer dataclass; empty is all.
    """

    group: type[Any]
    only: tuple[str, ...] = ()


def option(
    default: T,
    text: str,
    *,
    least: float | None = None,
    most: float | None = None,
    metavar: str | None = None,
    name: str | None = None,
    choices: tuple[str, ...] = (),
    spelling: Spelling | None = None,
    shows_default: bool | None = None,
) -> T:
    """A field of a dataclass that commands offer as an option.

    A default of None is not shown unless asked for, and a dict is copied for each value.
    """
    shown = (default if spelling is None else spelling.default) is not None if shows_default is None else shows_default
    said = OptionField(text, least, most, metavar, shown, name, choices, spelling)
    given: dict[str, Any] = {"default_factory": default.copy} if isinstance(default, dict) else {"default": default}
    made: Any = field(**given, metadata={KEY: said})
    return made  # type: ignore[no-any-return]  # dataclasses takes the field, a type checker the type of its default


def argument(text: str, *, metavar: str, spelling: Spelling) -> Any:
    """A field without a default that commands take by its place."""
    return field(metadata={KEY: OptionField(text, metavar=metavar, spelling=spelling, is_argument=True)})


def options_of(group: type[T], only: tuple[str, ...] = (), **defaults: Any) -> T:
    """A field that is a dataclass of options, with other defaults for some of its fields."""
    made: Any = field(default_factory=partial(group, **defaults), metadata={KEY: OptionsField(group, only)})
    return made  # type: ignore[no-any-return]
