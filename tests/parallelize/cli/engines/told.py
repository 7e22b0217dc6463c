"""What a command on engines told its user."""

from __future__ import annotations

from typer.testing import Result


def spoken(told: Result) -> str:
    """What was printed, without the line breaks of a narrow terminal."""
    return " ".join(told.stdout.split())


def assert_refused(told: Result, code: int, sentence: str) -> None:
    assert told.exit_code == code, told.output
    lines = [line for line in told.stderr.splitlines() if line.startswith(("error: ", "hint:  "))]
    assert [line[:7] for line in lines] == ["error: ", "hint:  "]
    assert sentence in lines[0]
    assert lines[0].endswith(".")
    assert "Traceback" not in told.output
