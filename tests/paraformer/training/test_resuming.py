"""The state of a stopped run is read by the same run only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed

from paraformer.errors import CheckpointError
from paraformer.training.resuming import forget_state, keep_shared_state, keep_state, kept_state, resume_file
from tests.parallelize.rank_processes import ranks

WEIGHTS = torch.arange(6.0).view(2, 3)


def test_the_state_of_a_run_comes_back(tmp_path: Path) -> None:
    path = resume_file(tmp_path / "model.pt")
    assert path.name == "model.pt.resume"
    assert kept_state(path, {"seed": 0}) is None
    keep_state(path, {"identity": {"seed": 0}, "step": 3}, {"weight": WEIGHTS, "bias": WEIGHTS[0]})
    kept = kept_state(path, {"seed": 0})
    assert kept is not None
    assert kept.header["step"] == 3
    assert set(kept.names()) == {"weight", "bias"}
    assert torch.equal(kept.read(["weight"])["weight"], WEIGHTS)
    forget_state(path)
    assert list(tmp_path.iterdir()) == []


def test_a_part_of_a_tensor_is_kept_without_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "model.pt.resume"
    keep_state(path, {}, {"part": torch.zeros(100_000)[:2]})
    assert path.stat().st_size < 10_000


def test_another_run_is_told_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "model.pt.resume"
    keep_state(path, {"identity": {"seed": 0, "batch_size": 8, "width": 4}}, {})
    with pytest.raises(CheckpointError) as caught:
        kept_state(path, {"seed": 1, "batch_size": 16, "width": 4})
    assert str(caught.value) == f"{path} belongs to a run with other options: seed, batch size."
    assert "delete the file" in caught.value.hint


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt.resume"
    path.write_bytes(b"not a file of torch")
    with pytest.raises(CheckpointError, match=r"model\.pt\.resume"):
        kept_state(path, {})


def test_a_tensor_that_was_not_kept_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.pt.resume"
    keep_state(path, {"identity": {}}, {"weight": WEIGHTS})
    kept = kept_state(path, {})
    assert kept is not None
    with pytest.raises(CheckpointError, match=r"^The state of the run has no bias\.$"):
        kept.read(["weight", "bias"])


def _keep(path: Path, kill_at: str | None) -> None:
    """On one of two processes: keep a state that each has a half of, and another one."""
    distributed.init_process_group("gloo")
    rank, group = distributed.get_rank(), distributed.group.WORLD
    assert group is not None
    for name in ("1", "2"):
        if name == kill_at:
            path.with_name(path.name + ".ranks").joinpath(name).write_text("in the way")
        own = {f"weight{rank}": WEIGHTS + rank + float(name), "common": WEIGHTS}
        header = {"identity": {"seed": 0}, "step": int(name)}
        keep_shared_state(path, header, own, group, name=name, leads=rank == 0)
    distributed.destroy_process_group()


def test_two_processes_keep_each_its_own_and_the_last_state_alone_stays(tmp_path: Path) -> None:
    path = tmp_path / "model.pt.resume"
    ends = ranks(2, tmp_path, _keep, path, None)
    assert [(end.code, end.said) for end in ends] == [(0, "")] * 2
    kept = kept_state(path, {"seed": 0})
    assert kept is not None
    assert kept.header["step"] == 2
    assert set(kept.names()) == {"weight0", "weight1", "common"}
    found = kept.read(["weight1", "common"])
    assert torch.equal(found["weight1"], WEIGHTS + 3.0)
    assert torch.equal(found["common"], WEIGHTS)
    folder = tmp_path / "model.pt.resume.ranks"
    assert [inner.name for inner in folder.iterdir()] == ["2"]
    next((folder / "2").glob("*.distcp")).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"model\.pt\.resume\.ranks/2 is not whole\.$"):
        kept.read(["weight0", "weight1"])
    keep_state(path, {"identity": {"seed": 0}}, {})
    assert not folder.exists()


def test_a_state_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "model.pt.resume"
    ends = ranks(2, tmp_path, _keep, path, "2")
    assert [end.code for end in ends] == [1, 1]
    assert all("CheckpointError: Process 0 cannot write the state of the run" in end.said for end in ends)
    kept = kept_state(path, {"seed": 0})
    assert kept is not None
    assert kept.header["step"] == 1
    assert torch.equal(kept.read(["weight1"])["weight1"], WEIGHTS + 2.0)
