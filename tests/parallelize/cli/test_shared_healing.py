"""`parallelize heal` in several processes writes what one does, and goes on where one of them was killed."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from parallelize.cli.main import main
from parallelize.healing import heal as healing
from parallelize.healing.heal import Healing
from tests.parallelize.cli.commands import HEAL, PLAN, run
from tests.parallelize.rank_processes import ranks

COMMAND = (*HEAL, "--steps", "8", "--batch-size", "6", "--evaluate-every", "2", "--learning-rate", "0.001")


def _command(*arguments: str) -> None:
    sys.argv = ["parallelize", *arguments]
    main()


def _dying(rank: int, step: int, *arguments: str) -> None:
    """The command, where one rank is killed in a step."""
    advance, healing.KEEP_EVERY = Healing._advance, 0.0

    def counted(self: Healing, samples: Any) -> float:
        if self.progress.step == step and self.shares.rank == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return advance(self, samples)

    Healing._advance = counted  # type: ignore[method-assign]
    _command(*arguments)


def _healing(home: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((home / "out" / "report.json").read_text())["healing"]
    return content


@pytest.mark.slow
@pytest.mark.parametrize(("size", "killed", "rows"), [(2, 1, 2), (4, 3, 2), (2, 0, 1)])
def test_when_one_process_is_killed_all_end_and_the_same_command_goes_on_to_what_one_writes(
    size: int, killed: int, rows: int, home: Path
) -> None:
    (home / "p.json").write_text(PLAN)
    command = (*COMMAND, "--branch-ranks", str(rows))
    ends = ranks(size, home, _dying, killed, 5, *command)
    assert [end.code for end in ends] == [-9 if rank == killed else 3 for rank in range(size)], ends[0].said
    said = "".join(end.said for end in ends)
    assert said.count("error:") == 1
    assert f"error: Rank {killed} of {size} is gone without a word, so the others have ended too.\n" in said
    assert not (home / "out").exists()
    assert torch.load(home / "out.resume")["step"] == 4
    ends = ranks(size, home, _command, *command)
    assert [end.code for end in ends] == [0] * size, ends[0].said
    assert "healing: step 4 of 8" in ends[0].said
    assert "healing: step 2 of 8" not in ends[0].said
    assert [end.said for end in ends[1:]] == [""] * (size - 1)
    assert not list(home.glob("out.resume*"))
    shared = _healing(home)
    alone = run(*COMMAND, "--force")
    assert alone.exit_code == 0, alone.output
    for row, other in zip(shared["history"], _healing(home)["history"], strict=True):
        assert row["error"] == pytest.approx(other["error"], rel=1e-3)


@pytest.mark.slow
def test_more_ranks_than_branches_are_refused_once(home: Path) -> None:
    (home / "p.json").write_text(PLAN)
    ends = ranks(4, home, _command, *COMMAND, "--branch-ranks", "4")
    assert [end.code for end in ends] == [2] * 4
    assert ends[0].said.count("error:") == 1
    assert "No level has a branch for each of 4 ranks" in ends[0].said


def test_branch_ranks_of_one_process_are_refused(home: Path) -> None:
    (home / "p.json").write_text(PLAN)
    told = run(*COMMAND, "--branch-ranks", "2")
    assert told.exit_code == 2
    assert "error: 2 processes are to share the branches, and one was started." in told.stderr
