"""Options that are fields of a dataclass: one place for default, help and range."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal

import pytest
import typer
from typer.testing import CliRunner

from parallelize.cli.takes import takes
from parallelize.healing.options import HealOptions
from parallelize.terminal.option_field import KEY, option

Kind = Literal["small", "large"]


@dataclass(frozen=True)
class Cake:
    """What is baked."""

    layers: int = option(3, "Layers of it.", least=1)
    kind: Kind = option("small", "How large.")
    topping: str | None = option(None, "What lies on it.", metavar="FRUIT")
    secret: float = 1.5


def _app(seen: list[object]) -> typer.Typer:
    app = typer.Typer()

    @app.command()
    @takes(cake=Cake)
    def bake(name: str, hot: Annotated[bool, typer.Option("--hot")] = False, *, cake: Cake) -> None:
        seen.extend((name, hot, cake))

    return app


def _run(*arguments: str) -> tuple[str, list[object]]:
    seen: list[object] = []
    told = CliRunner().invoke(_app(seen), list(arguments), env={"COLUMNS": "200", "NO_COLOR": "1"})
    return told.output, seen


def test_fields_are_options_and_the_command_gets_one_value() -> None:
    _, seen = _run("plum", "--layers", "2", "--kind", "large", "--topping", "plums", "--hot")
    assert seen == ["plum", True, Cake(2, "large", "plums")]


def test_what_is_not_given_is_the_default_of_the_field() -> None:
    assert _run("plum")[1] == ["plum", False, Cake()]


def test_help_and_default_come_from_the_field_and_other_fields_are_no_options() -> None:
    text, _ = _run("--help")
    for words in ("Layers of it.", "default: 3", "small|large", "FRUIT", "What lies on it."):
        assert words in text
    assert "secret" not in text
    assert "default: None" not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("--layers", "0"), "--layers"), (("--kind", "huge"), "--kind"), (("--secret", "2"), "secret")],
)
def test_a_value_out_of_range_is_refused_by_its_option(arguments: tuple[str, str], words: str) -> None:
    text, seen = _run("plum", *arguments)
    assert words in text
    assert seen == []


def test_every_option_of_a_healing_but_the_clipping_is_offered() -> None:
    assert [part.name for part in fields(HealOptions) if KEY not in part.metadata] == ["clip"]
    assert HealOptions().batch_size == HealOptions.batch_size == 64
