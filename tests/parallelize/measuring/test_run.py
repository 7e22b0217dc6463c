"""A network over a file of samples, in one process; tests/parallelize/cli/test_run_ranks.py has several."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from parallelize.machine.ranks import Ranks
from parallelize.measuring.run import run
from parallelize.measuring.run_options import RunFileOptions
from parallelize.models.saving import BRANCHES
from passes.errors import EnvironmentLackError, ParallelizeError
from tests.parallelize.measuring.fused import COUNT, apart, expected, write_directory
from tests.passes.models import EXACT, relative_error


class _Two(Ranks):
    size = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_directory(folder)
    return folder


@pytest.mark.parametrize("batch", [None, 4])
def test_outputs_of_all_samples_are_written_by_their_names(batch: int | None, folder: Path, tmp_path: Path) -> None:
    result = run(folder / "out", folder / "samples.npz", tmp_path / "y.npz", options=RunFileOptions(batch=batch))
    (name,) = result.outputs
    written = np.load(tmp_path / "y.npz")
    assert written.files == [apart().outputs[0].name] == [name]
    assert relative_error(torch.from_numpy(written[name]), expected()) < EXACT
    assert (result.samples, result.ranks, result.runner, result.device) == (COUNT, 1, "torch", "cpu")
    assert result.outputs[name] == (COUNT, 5)
    assert result.batch == (batch or 32)
    assert result.score is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["y.npz"]


def test_labels_give_the_accuracy(folder: Path) -> None:
    result = run(folder / "out", folder / "samples.npz", options=RunFileOptions(labels="classes"))
    assert result.score is not None
    assert result.score.value == 1.0
    assert str(result.score) == "top-1 100.00% (95 % interval 100.00% to 100.00%)"


def test_a_program_runs_as_a_file_does(folder: Path, tmp_path: Path) -> None:
    run(apart(), folder / "samples.npz", tmp_path / "y.npz")
    (name,) = np.load(tmp_path / "y.npz").files
    assert relative_error(torch.from_numpy(np.load(tmp_path / "y.npz")[name]), expected()) < EXACT


def test_a_file_that_cannot_be_written_is_refused_before_the_run(folder: Path) -> None:
    with pytest.raises(EnvironmentLackError, match="cannot be written"):
        run(folder / "missing", folder / "samples.npz", folder / "no" / "y.npz")


def test_several_ranks_need_branches_that_are_apart(folder: Path, tmp_path: Path) -> None:
    out = write_directory(tmp_path)
    (out / BRANCHES).unlink()
    with pytest.raises(ParallelizeError, match=r"has no branches\.pt2, and the branches of its model are") as error:
        run(out, folder / "samples.npz", ranks=_Two())
    assert "--branches" in error.value.hint
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ParallelizeError, match="whose branches cannot be taken apart"):
        run(tmp_path / "model.onnx", folder / "samples.npz", ranks=_Two())
