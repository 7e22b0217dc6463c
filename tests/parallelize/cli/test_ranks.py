"""Several processes share one search: what they find, write and say is what one alone does."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parallelize.cli.main import main
from parallelize.models.capture import export
from parallelize.planning import memory
from parallelize.planning.costs import GroupCosts
from parallelize.planning.forms import GroupForm
from passes.errors import ParallelizeError
from tests.parallelize.cli.commands import run
from tests.parallelize.planning.cases import mlps
from tests.parallelize.rank_processes import End, ranks
from tests.parallelize.small_models import images, vectors
from tests.parallelize.written import write

PLAN = ("plan", "mlps.pt2", "--inputs", "mlps.npz", "--no-latency", "--refit", "affine", "-o", "out")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a model of four blocks and data."""
    monkeypatch.chdir(tmp_path)
    torch.export.save(export(mlps()), tmp_path / "mlps.pt2")
    np.savez(tmp_path / "mlps.npz", x=vectors(80, 6, 0).arrays["x"].numpy())
    return tmp_path


def _command(*arguments: str) -> None:
    sys.argv = ["parallelize", *arguments]
    main()


def _told(folder: Path, name: str) -> dict[str, Any]:
    """What is in a report but for the machine and what depends on the clock."""
    content: dict[str, Any] = json.loads((folder / "out" / name).read_text())
    return {key: value for key, value in content.items() if key != "measured_on"}


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _same_as_alone(size: int, folder: Path, *arguments: str) -> list[End]:
    """Run a command alone and in several processes, and compare what it writes and says."""
    alone = run(*arguments)
    assert alone.exit_code == 0, alone.output
    files, told = _files(folder / "out"), _told(folder, "frontier.json")
    for path in sorted((folder / "out").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (folder / "out").rmdir()
    ends = ranks(size, folder, _command, *arguments)
    assert [end.code for end in ends] == [0] * size, ends[0].said
    assert _told(folder, "frontier.json") == told
    both = _files(folder / "out")
    assert both.keys() == files.keys()
    assert all(both[name] == files[name] for name in files if name != "frontier.json")
    assert ends[0].said.endswith(alone.stdout)
    assert [end.said for end in ends[1:]] == [""] * (size - 1)
    return ends


def test_two_processes_plan_the_same_as_one_and_one_of_them_speaks(folder: Path, one_thread: None) -> None:
    _same_as_alone(2, folder, *PLAN, "--depths", "2", "--refit", "none")
    assert sorted(path.name for path in folder.iterdir()) == ["mlps.npz", "mlps.pt2", "out", "rank0.txt", "rank1.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_several_processes_plan_the_same_as_one_for_all_depths(size: int, folder: Path, one_thread: None) -> None:
    _same_as_alone(size, folder, *PLAN, "--refine", "5", "--heatmap")


CONVERT = ("convert", "net.pt2", "--inputs", "images.npz", "--rounds", "1", "-o", "out")


@pytest.fixture
def converting(folder: Path) -> Path:
    """The working directory, with a vision transformer of two blocks and images."""
    write(folder / "net.pt2", 2)
    np.savez(folder / "images.npz", images=images(60, 1).arrays["images"].numpy())
    return folder


@pytest.mark.slow
def test_several_processes_convert_as_one_does_and_count_what_all_have_run(converting: Path, one_thread: None) -> None:
    folder = converting
    alone = run(*CONVERT, "--depth", "1")
    assert alone.exit_code == 0, alone.output
    plan, told = (folder / "out" / "plan.json").read_bytes(), _told(folder, "report.json")
    ends = ranks(3, folder, _command, *CONVERT, "--depth", "1", "--force")
    assert [(end.code, end.said) for end in ends[1:]] == [(0, ""), (0, "")]
    assert ends[0].code == 0, ends[0].said
    assert (folder / "out" / "plan.json").read_bytes() == plan
    shared = _told(folder, "report.json")
    for name in ("plan", "data", "metric", "refit", "deletion_plan"):
        assert shared[name] == told[name], name
    assert [network["errors"] for network in shared["networks"]] == [network["errors"] for network in told["networks"]]
    assert shared["forward_passes"] >= told["forward_passes"] > 0


@pytest.mark.slow
def test_processes_that_there_is_no_work_for_are_no_error(converting: Path) -> None:
    """A plan is given, so there is no search."""
    folder = converting
    plan = {
        "format": "parallelize-plan/1",
        "stacks": [{"terms": 4, "refit": "none", "levels": [[[0], [2]], [[1], [3]]]}],
    }
    (folder / "p.json").write_text(json.dumps(plan))
    ends = ranks(2, folder, _command, *CONVERT, "--plan", "p.json")
    assert [end.code for end in ends] == [0, 0], ends[0].said
    assert (folder / "out" / "report.json").exists()
    assert ends[1].said == ""


def _dying(rank: str, kill: Callable[[], None], *arguments: str) -> None:
    """The command, where one of two ranks dies at its second measurement of a group.

    Rank 0 waits until the other has begun as many as itself: however fast either is, both have two.
    """
    measure, done = GroupCosts._measure, []

    def marked(self: GroupCosts, number: int, form: GroupForm) -> float:
        done.append(form)
        begun = Path(f"begun{len(done)}.mark")
        if os.environ["RANK"] == "1":
            begun.touch()
        while len(done) < 3 and not begun.exists():
            time.sleep(0.02)
        if len(done) == 2 and os.environ["RANK"] == rank:
            kill()
        return measure(self, number, form)

    GroupCosts._measure, memory.SECONDS = marked, 0.0  # type: ignore[method-assign]
    _command(*arguments)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _raise() -> None:
    raise ParallelizeError("The disk is full.", "Make room.")


@pytest.mark.parametrize(
    ("rank", "die", "said"),
    [
        ("1", _kill, "error: Rank 1 of 2 is gone without a word, so the others have ended too.\nhint:  Look whether"),
        pytest.param(
            "0",
            _kill,
            "error: Rank 0 of 2 is gone without a word, so the others have ended too.\nhint:  Look whether",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "1",
            _raise,
            "error: Rank 1 of 2 failed: The disk is full.\nhint:  Make room.\n",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_when_one_process_dies_all_end_with_one_sentence_and_nothing_is_lost(
    rank: str, die: Callable[[], None], said: str, folder: Path
) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "frontier.json").write_text("{}")
    ends = ranks(2, folder, _dying, rank, die, *PLAN, "--depths", "2", "--force")
    expected = {"1 killed": [3, -9], "0 killed": [-9, 3], "1 raised": [2, 2]}
    assert [end.code for end in ends] == expected[f"{rank} {'killed' if die is _kill else 'raised'}"]
    assert "".join(end.said for end in ends).count("error:") == 1
    assert said in ends[1 if rank == "0" else 0].said
    assert _files(folder / "out") == {"frontier.json": b"{}"}
    assert json.loads((folder / "out.search.resume").read_text())["groups"]


def test_a_command_that_has_nothing_to_share_is_refused_by_rank_0_alone(folder: Path) -> None:
    ends = ranks(2, folder, _command, "bench", "mlps.pt2")
    assert [end.code for end in ends] == [2, 0]
    assert ends[0].said == (
        "error: `parallelize bench` runs in one process, and 2 were started.\n"
        "hint:  Run it without torchrun; `convert`, `heal`, `plan`, `run` and `train` are shared by several"
        " processes.\n"
    )
    assert ends[1].said == ""


def test_what_every_process_finds_wrong_is_said_once(folder: Path) -> None:
    ends = ranks(2, folder, _command, "plan", "missing.pt2", "--inputs", "mlps.npz", "-o", "out")
    assert [end.code for end in ends] == [2, 2]
    assert ends[0].said.count("error:") == 1
    assert "Rank" not in ends[0].said
    assert ends[1].said == ""


@pytest.mark.slow
def test_weights_that_no_seed_fixes_are_refused(folder: Path) -> None:
    (folder / "net.py").write_text(FACTORY)
    ends = ranks(2, folder, _command, "plan", "net.py:make", "--inputs", "mlps.npz", "-o", "out", "--no-latency")
    assert [end.code for end in ends] == [2, 2]
    assert "error: Rank 1 of 2 failed: Rank 1 has another model" in ends[0].said


FACTORY = """
import torch
from torch import nn


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        torch.seed()
        self.terms = nn.ModuleList(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6)) for _ in range(4))

    def forward(self, x):
        for term in self.terms:
            x = x + term(x)
        return x


def make():
    return Residual()
"""


def test_a_world_without_a_place_to_meet_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    told = run("plan", "model.pt", "--inputs", "data.npz", "-o", "out")
    assert told.exit_code == 2
    assert "error: WORLD_SIZE is 2, but RANK is not set." in told.stderr
