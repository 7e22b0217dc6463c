"""What is being done is a moving line on a terminal, and one line for each step elsewhere."""

from __future__ import annotations

import io
import sys

import pytest

from parallelize.terminal.progress import Told, reporting


def test_without_a_terminal_each_step_is_one_line_on_the_error_stream(capsys: pytest.CaptureFixture[str]) -> None:
    with reporting() as report:
        for what, share in (("loading", None), ("judging", 0.0), ("judging", 0.5), ("loading", None)):
            report(what, share)
    assert capsys.readouterr() == ("", "loading\njudging\nloading\n")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_line_tells_what_is_done_as_it_is_spelled_and_is_gone_afterwards(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with reporting() as report:
        report("judging [red]a", 0.5)
        report("judging [red]a", None)
    written = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "judging [red]a" in written
    assert written.rstrip("\n").endswith("\x1b[2K")  # the line is erased
    assert capsys.readouterr().out == ""


def test_what_is_told_stays_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with reporting() as report:
        report("judging", 0.5)
        report(Told("a.resume is of another [run]."), None)
    written = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert written.count("a.resume is of another [run].\n") == 1


def test_an_error_ends_the_line_and_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(KeyError, match="gone"), reporting():
        raise KeyError("gone")
