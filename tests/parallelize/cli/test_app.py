"""The application: how a command's errors end, what --debug and --version do, and that both may stand anywhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import typer
from typer.testing import CliRunner, Result

from paraformer.errors import ParaFormerError
from parallelize import __version__
from parallelize.cli.app import BUG, Settings, app, reports_errors
from passes.errors import CheckError, EnvironmentLackError, ParallelizeError


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Settings, "debug", False)  # and so it is again afterwards


def ended(command: Callable[[], None]) -> Result:
    made = typer.Typer()
    made.command()(reports_errors(command))
    return CliRunner().invoke(made, [])


def failing(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CheckError("It differs.", "Look."), 1),
        (ParallelizeError("It differs.", "Look."), 2),
        (ParaFormerError("It differs.", "Look."), 2),
        (EnvironmentLackError("It differs.", "Look."), 3),
    ],
)
def test_what_a_user_can_mend_is_one_sentence_and_one_hint_with_the_exit_code_of_its_kind(
    error: Exception, code: int
) -> None:
    told = ended(failing(error))
    assert (told.exit_code, told.stdout, told.stderr) == (code, "", "error: It differs.\nhint:  Look.\n")


def test_anything_else_is_a_bug_told_by_its_type() -> None:
    told = ended(failing(KeyError("term")))
    assert told.exit_code == BUG == 4
    error, hint = told.stderr.splitlines()
    assert error == "error: KeyError: 'term'"
    assert hint.startswith("hint:  This is a bug in parallelize; run again with --debug")


def test_with_debug_the_traceback_stands_before_the_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Settings, "debug", True)
    for error in (KeyError("term"), ParallelizeError("It differs.", "Look.")):
        told = ended(failing(error))
        assert told.stderr.startswith("Traceback (most recent call last):")
        assert "error: " in told.stderr.splitlines()[-2]


def test_a_command_that_ends_by_itself_has_its_own_code() -> None:
    assert ended(failing(typer.Exit(7))).exit_code == 7
    assert ended(lambda: None).exit_code == 0


@pytest.mark.parametrize("arguments", [("--debug", "inspect", "gone.pt"), ("inspect", "gone.pt", "--debug")])
def test_debug_may_stand_before_and_behind_a_command(arguments: tuple[str, ...]) -> None:
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 2
    assert "Traceback" in told.stderr
    assert "Traceback" not in CliRunner().invoke(app, ["inspect", "gone.pt"]).stderr


def test_the_version_is_told_before_anything_else() -> None:
    told = CliRunner().invoke(app, ["--version", "no-such-command"])
    assert (told.exit_code, told.stdout) == (0, f"parallelize {__version__}\n")


def test_without_a_command_the_help_is_shown_and_an_unknown_one_is_wrong_usage() -> None:
    assert "Turn the depth of neural networks into width" in CliRunner().invoke(app, []).output
    assert CliRunner().invoke(app, ["no-such-command"]).exit_code == 2
