"""convert as a user meets it: what is printed and written, earlier output replaced whole or not at all."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
from typer.testing import Result

from tests.parallelize.cli.commands import CONVERT, run, started
from tests.parallelize.cli.conftest import filled

FAST = (*CONVERT, "--refit", "none")


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result, Result]:
    """A working directory in which a conversion replaced another output, what was told without --force, and with it."""
    folder = filled(tmp_path_factory.mktemp("home"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _existing(folder)
        refused = run(*CONVERT, "--labels", "labels")
        assert [path.name for path in (folder / "out").iterdir()] == ["report.json"]
        return folder, refused, run(*CONVERT, "--labels", "labels", "--force")


def _existing(home: Path) -> None:
    (home / "out").mkdir()
    (home / "out" / "report.json").write_text("{}")


def test_convert_prints_the_table_and_writes_everything(
    converted: tuple[Path, Result, Result],
) -> None:
    home, _, told = converted
    assert told.exit_code == 0, told.output
    names = (
        "serial",
        "rewrite, as is",
        "rewrite, unfused",
        "rewrite, refitted",
        "deletion, as is",
        "deletion, refitted",
    )
    assert all(name in told.stdout for name in names)
    assert all(
        heading in told.stdout for heading in ("GEMMs", "meters", "top-1", "95 %", "KL", "median", "p90", "speed")
    )
    written = {path.name for path in (home / "out").iterdir()}
    assert written == {
        "model.pt2",
        "model.onnx",
        "plan.json",
        "report.json",
        "report.html",
        "before.svg",
        "after.svg",
    }
    assert max(map(len, told.stdout.splitlines())) <= 100
    assert "…" not in told.stdout


def test_an_existing_output_is_replaced_only_by_force(converted: tuple[Path, Result, Result]) -> None:
    home, refused, told = converted
    assert (refused.exit_code, "--force" in refused.stderr) == (2, True)
    assert told.exit_code == 0
    assert json.loads((home / "out" / "report.json").read_text())["schema"] == "parallelize-report/1"


def test_force_does_not_replace_what_no_conversion_made(home: Path) -> None:
    (home / "out").mkdir()
    (home / "out" / "thesis.tex").write_text("years of work")
    told = run(*CONVERT, "--force")
    assert told.exit_code == 2
    assert "was not made by a conversion" in told.stderr
    assert (home / "out" / "thesis.tex").read_text() == "years of work"


def test_a_failed_run_leaves_the_earlier_output_whole(converted: tuple[Path, Result, Result], home: Path) -> None:
    shutil.copytree(converted[0] / "out", home / "out")
    before = {path.name: path.read_bytes() for path in (home / "out").iterdir()}
    whole = (home / "model.pt").read_bytes()
    (home / "model.pt").write_bytes(whole[: len(whole) // 2])
    assert run(*FAST, "--force").exit_code == 2
    assert {path.name: path.read_bytes() for path in (home / "out").iterdir()} == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "end"),
    [
        ("capturing the model", signal.SIGINT),
        ("judging", signal.SIGTERM),
        ("writing and checking ONNX", signal.SIGKILL),
        ("writing the report", signal.SIGKILL),
    ],
)
def test_a_killed_run_leaves_the_earlier_output_whole(home: Path, stage: str, end: signal.Signals) -> None:
    _existing(home)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job hands down that it is ignored
    running = started("-m", "parallelize", *FAST, "--force")
    assert running.stderr is not None
    for line in running.stderr:
        if line.strip() == stage:
            break
    running.send_signal(end)
    assert running.wait(60) != 0
    assert {path.name: path.read_text() for path in (home / "out").iterdir()} == {"report.json": "{}"}
