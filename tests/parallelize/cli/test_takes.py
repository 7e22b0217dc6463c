"""Options that are fields of a dataclass: one place for default, help and range."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal

import pytest
import typer
from typer.testing import CliRunner

from parallelize.cli.takes import takes
from parallelize.healing.options import HealOptions
from parallelize.terminal.option_field import KEY, Spelling, argument, option, options_of

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


@dataclass(frozen=True)
class Oven:
    """Where it is baked."""

    heat: int = option(180, "Degrees.", most=250)
    fan: bool = option(True, "With a fan.")
    light: bool = option(False, "With a light.", name="--lit")


@dataclass(frozen=True, kw_only=True)
class Baking:
    """What every bakery does."""

    times: tuple[int, ...] = option(
        (1, 2), "When.", name="--time", spelling=Spelling(str, "1,2", lambda text: tuple(map(int, text.split(","))))
    )


@dataclass(frozen=True)
class Bakery(Baking):
    """A bakery."""

    town: str = argument("Where.", metavar="TOWN", spelling=Spelling(str))
    flour: str = option("rye", "Of what.", choices=("rye", "oats"))
    oven: Oven = options_of(Oven, fan=False, only=("heat", "light"))


def _baked(*arguments: str, without: tuple[str, ...] = ()) -> tuple[str, list[object]]:
    app, seen = typer.Typer(), list[object]()

    @app.command()
    @takes(bakery=Bakery, without=without)
    def bake(bakery: Bakery) -> None:
        seen.append(bakery)

    told = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", "NO_COLOR": "1"})
    return told.output, seen


def test_a_field_that_is_a_dataclass_gives_its_options_and_keeps_the_defaults_of_what_is_not_offered() -> None:
    assert _baked("Bern")[1] == [Bakery("Bern", oven=Oven(fan=False))]
    assert _baked("Bern", "--heat", "99", "--lit")[1] == [Bakery("Bern", oven=Oven(99, fan=False, light=True))]
    assert "--fan" not in _baked("--help")[0]


def test_a_value_of_another_type_is_read_as_its_field_says() -> None:
    assert _baked("Bern")[1] == [Bakery("Bern", times=(1, 2), oven=Oven(fan=False))]
    assert _baked("Bern", "--time", "7,8")[1] == [Bakery("Bern", times=(7, 8), oven=Oven(fan=False))]
    assert "default: 1,2" in _baked("--help")[0]


def test_an_argument_is_required_and_choices_are_refused_by_name() -> None:
    assert "Missing argument 'TOWN'" in _baked()[0]
    text, seen = _baked("Bern", "--flour", "sand")
    assert ("'sand' is not one of 'rye', 'oats'" in text, seen) == (True, [])
    assert "<rye|oats>" in _baked("--help")[0]


def test_a_command_may_leave_fields_out() -> None:
    text, _ = _baked("--help", without=("flour", "light"))
    assert ("--flour" in text, "--lit" in text, "--heat" in text) == (False, False, True)


def test_every_option_of_a_healing_but_the_clipping_is_offered() -> None:
    assert [part.name for part in fields(HealOptions) if KEY not in part.metadata] == ["clip"]
    assert HealOptions().batch_size == HealOptions.batch_size == 64
