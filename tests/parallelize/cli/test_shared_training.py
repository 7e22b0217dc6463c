"""`parallelize train` in several processes: one speaks, one file is written, and nobody waits for one that is gone."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from paraformer.checkpoint import load
from paraformer.training.trainer import Trainer
from parallelize.cli.main import main
from tests.paraformer.idx_files import stripes, write_split
from tests.parallelize.cli.commands import run
from tests.parallelize.rank_processes import ranks

SIZES = ("--patch-size", "4", "--depth", "4", "--branches", "4", "--width", "16", "--heads", "2", "--hidden", "32")
TRAIN = ("train", "-o", "model.pt", "--data", "idx", "--device", "cpu", "--epochs", "3", "--batch-size", "16", *SIZES)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with images."""
    monkeypatch.chdir(tmp_path)
    write_split(tmp_path / "idx", "train", stripes(64, 8, 0))
    write_split(tmp_path / "idx", "t10k", stripes(20, 8, 1))
    return tmp_path


def _command(*arguments: str) -> None:
    sys.argv = ["parallelize", *arguments]
    main()


def _dying(rank: int, step: int, *arguments: str) -> None:
    """The command, where one rank is killed in a step."""
    advance, done = Trainer._step, []

    def counted(self: Trainer, batches: object) -> float:
        done.append(batches)
        if len(done) == step and self.shares.rank == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return advance(self, batches)  # type: ignore[arg-type]

    Trainer._step = counted  # type: ignore[assignment, method-assign]
    _command(*arguments)


def _same(folder: Path) -> None:
    """What was written is what one process writes, in float32."""
    found = load(folder / "model.pt")
    alone = run(*TRAIN[:2], "alone.pt", *TRAIN[3:])
    assert alone.exit_code == 0, alone.output
    for name, value in load(folder / "alone.pt").state_dict.items():
        torch.testing.assert_close(found.state_dict[name], value, rtol=1e-3, atol=1e-3)
    assert [path.name for path in folder.iterdir() if "resume" in path.name] == []


@pytest.mark.parametrize(
    ("size", "killed", "rows"),
    [
        (2, 1, 2),
        pytest.param(2, 0, 1, marks=pytest.mark.slow),
        pytest.param(4, 3, 2, marks=pytest.mark.slow),
        pytest.param(4, 1, 1, marks=pytest.mark.slow),
    ],
)
def test_when_one_process_is_killed_all_end_with_one_sentence_and_the_same_command_goes_on(
    size: int, killed: int, rows: int, folder: Path
) -> None:
    command = (*TRAIN, "--branch-ranks", str(rows))
    ends = ranks(size, folder, _dying, killed, 6, *command)
    assert [end.code for end in ends] == [-9 if rank == killed else 3 for rank in range(size)]
    said = "".join(end.said for end in ends)
    assert said.count("error:") == 1
    assert f"error: Rank {killed} of {size} is gone without a word, so the others have ended too.\n" in said
    assert said.endswith("the same command goes on with what was kept.\n")
    assert not (folder / "model.pt").exists()
    ends = ranks(size, folder, _command, *command)
    assert [end.code for end in ends] == [0] * size, ends[0].said
    assert "epoch 1" not in ends[0].said
    assert "epoch 2 of 3" in ends[0].said
    assert f"Written to model.pt: top-1 {load(folder / 'model.pt').training['epochs'][-1]['top1']:.2%}" in ends[0].said
    assert [end.said for end in ends[1:]] == [""] * (size - 1)
    _same(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--branch-ranks", "2", "--branches", "1", "--depth", "4"), "The model has one branch, which leaves nothing"),
        (("--batch-size", "1"), "A batch of 1 samples is not enough for 2 processes."),
        (("--branch-ranks", "4"), "2 processes are not shared evenly into rows of 4 branch ranks."),
        (("--data", "missing"), "missing"),
    ],
)
def test_what_cannot_be_shared_is_said_once(arguments: tuple[str, ...], said: str, folder: Path) -> None:
    ends = ranks(2, folder, _command, *TRAIN, *arguments)
    assert [end.code for end in ends] == [2, 2]
    assert ends[0].said.count("error:") == ends[0].said.count("hint:") == 1
    assert said in ends[0].said
    assert "Rank" not in ends[0].said
    assert ends[1].said == ""


def test_branch_ranks_of_one_process_are_refused(folder: Path) -> None:
    told = run(*TRAIN, "--branch-ranks", "2")
    assert told.exit_code == 2
    assert "error: 2 processes are to share the branches, and one was started." in told.stderr
