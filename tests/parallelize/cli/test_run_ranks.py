"""Several processes run one network, its branches spread over them: what is written is what one process writes."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from parallelize.backends.torch.eager import Eager
from parallelize.cli.main import main
from tests.parallelize.cli.commands import run
from tests.parallelize.measuring.fused import ALL, expected, write_directory
from tests.parallelize.rank_processes import ranks
from tests.passes.models import EXACT, relative_error

RUN = ("run", "out", "--inputs", "samples.npz", "-o", "y.npz", "--batch", "4")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a converted network and samples."""
    monkeypatch.chdir(tmp_path)
    write_directory(tmp_path)
    return tmp_path


def _command(*arguments: str) -> None:
    sys.argv = ["parallelize", *arguments]
    main()


def _written(folder: Path) -> torch.Tensor:
    (array,) = np.load(folder / "y.npz").values()
    return torch.from_numpy(array)


def test_two_processes_write_what_one_does_and_one_of_them_speaks(folder: Path) -> None:
    ends = ranks(2, folder, _command, *RUN, "--labels", "classes")
    assert [end.code for end in ends] == [0, 0], ends[0].said
    assert relative_error(_written(folder), expected()) < EXACT
    assert ends[1].said == ""
    assert "2 ranks share 2 levels, one all-reduce for each:" in ends[0].said
    assert "2 branches on 2 ranks, 50% on one" in ends[0].said
    assert "top-1 100.00%" in ends[0].said


def test_one_process_says_what_it_did(folder: Path) -> None:
    told = run(*RUN)
    assert told.exit_code == 0, told.output
    assert "21 samples in" in told.stdout
    assert "Written to y.npz" in told.stdout
    assert relative_error(_written(folder), expected()) < EXACT


def test_a_file_of_outputs_that_is_no_npz_is_refused(folder: Path) -> None:
    told = run("run", "out", "--inputs", "samples.npz", "-o", "y.csv")
    assert told.exit_code == 2
    assert "error: The file of outputs y.csv is no .npz." in told.stderr


def _dying(*arguments: str) -> None:
    """The command, where rank 1 is killed at its third batch."""
    call, done = Eager.__call__, []

    def marked(self: Eager, inputs: object) -> object:
        done.append(inputs)
        if len(done) == 3 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return call(self, inputs)  # type: ignore[arg-type]

    Eager.__call__ = marked  # type: ignore[assignment,method-assign]
    _command(*arguments)


def test_when_one_process_is_killed_all_end_with_one_sentence_and_the_old_file_stays(folder: Path) -> None:
    (folder / "y.npz").write_bytes(b"old")
    ends = ranks(2, folder, _dying, *RUN)
    assert [end.code for end in ends] == [3, -signal.SIGKILL]
    assert "error: Rank 1 of 2 is gone without a word, so the others have ended too.\nhint:  Look" in ends[0].said
    assert "".join(end.said for end in ends).count("error:") == 1
    assert (folder / "y.npz").read_bytes() == b"old"
    assert sorted(path.name for path in folder.iterdir()) == ["out", "rank0.txt", "rank1.txt", "samples.npz", "y.npz"]


@pytest.mark.slow
def test_more_processes_than_branches_are_refused_with_one_sentence(folder: Path) -> None:
    ends = ranks(3, folder, _command, *RUN)
    assert [end.code for end in ends] == [2, 2, 2]
    assert "error: No level has a branch for each of 3 ranks: the most branches on one level are 2." in ends[0].said
    assert "".join(end.said for end in ends).count("error:") == 1
    assert not (folder / "y.npz").exists()


@pytest.mark.slow
def test_four_processes_write_what_one_does_and_end_when_one_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_directory(tmp_path, ALL)
    ends = ranks(4, tmp_path, _command, *RUN)
    assert [end.code for end in ends] == [0, 0, 0, 0], ends[0].said
    assert relative_error(_written(tmp_path), expected(ALL)) < EXACT
    assert "4 branches on 4 ranks, 25% on one" in ends[0].said
    before = (tmp_path / "y.npz").read_bytes()
    ends = ranks(4, tmp_path, _dying, *RUN)
    assert [end.code for end in ends] == [3, -signal.SIGKILL, 3, 3]
    assert "".join(end.said for end in ends).count("error:") == 1
    assert (tmp_path / "y.npz").read_bytes() == before
