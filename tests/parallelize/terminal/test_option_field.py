"""A field of a dataclass says what a command line says of it, and is an ordinary field to Python."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import pytest

from parallelize.terminal.option_field import KEY, OptionField, OptionsField, Spelling, argument, option, options_of

WHERE = Spelling(Path | None)


@dataclass(frozen=True)
class Oven:
    heat: int = option(180, "How hot.", least=50, most=300, metavar="C", name="--temperature")
    fan: bool = option(False, "Blow.")
    shape: str | None = option(None, "Of the tin.", choices=("round", "long"))
    dots: dict[str, int] = option({}, "Where they are.")
    tin: Path | None = option(None, "A file.", spelling=WHERE)
    level: int | None = option(None, "Of the rack.", shows_default=True)


@dataclass(frozen=True)
class Cake:
    name: str = argument("What it is called.", metavar="NAME", spelling=Spelling(str))
    oven: Oven = options_of(Oven, only=("heat", "fan"), heat=200)
    secret: float = field(default=1.5)


def said(group: Any, name: str) -> Any:
    (found,) = (part.metadata.get(KEY) for part in fields(group) if part.name == name)
    return found


def test_to_python_they_are_defaults_as_ever() -> None:
    assert (Oven().heat, Oven(heat=90).heat, Oven().tin) == (180, 90, None)
    assert Cake("plum").oven == Oven(heat=200)
    with pytest.raises(TypeError, match="name"):
        Cake()  # type: ignore[call-arg]


def test_a_dict_and_a_group_of_options_are_made_anew_for_each_value() -> None:
    first, second = Oven(), Oven()
    first.dots["x"] = 1
    assert second.dots == {}
    assert Cake("a").oven is not Cake("b").oven


def test_what_a_command_says_stands_at_the_field() -> None:
    assert said(Oven, "heat") == OptionField("How hot.", 50, 300, "C", True, "--temperature")
    assert said(Oven, "shape").choices == ("round", "long")
    spelling = said(Cake, "name").spelling
    assert said(Cake, "name") == OptionField("What it is called.", metavar="NAME", spelling=spelling, is_argument=True)
    assert said(Cake, "oven") == OptionsField(Oven, ("heat", "fan"))
    assert said(Cake, "secret") is None


def test_a_default_of_none_is_not_shown_unless_it_is_asked_for() -> None:
    shown = {part.name: part.metadata[KEY].shows_default for part in fields(Oven)}
    assert shown == {"heat": True, "fan": True, "shape": False, "dots": True, "tin": False, "level": True}
    told = option(None, "x", spelling=Spelling(str, default="auto"))
    assert told.metadata[KEY].shows_default  # type: ignore[attr-defined]


def test_what_is_given_is_the_value_unless_the_spelling_reads_it() -> None:
    assert WHERE.read("a") == "a"
    assert Spelling(str, read=len).read("abc") == 3
    assert next(part for part in fields(Cake) if part.name == "name").default is MISSING


def test_no_command_line_is_imported_for_it() -> None:
    code = "import sys, parallelize.terminal.option_field; sys.exit(any(n in sys.modules for n in ('typer', 'click')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
