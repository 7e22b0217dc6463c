"""The state of a stopped run is read by the same run only."""

from __future__ import annotations

from pathlib import Path

import pytest

from paraformer.errors import CheckpointError
from paraformer.training.resuming import keep_state, kept_state, resume_file


def test_the_state_of_a_run_comes_back(tmp_path: Path) -> None:
    path = resume_file(tmp_path / "model.pt")
    assert path.name == "model.pt.resume"
    assert kept_state(path, {"seed": 0}) is None
    keep_state(path, {"seed": 0}, {"step": 3})
    assert kept_state(path, {"seed": 0}) == {"step": 3}


def test_another_run_is_told_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "model.pt.resume"
    keep_state(path, {"seed": 0, "batch_size": 8, "width": 4}, {})
    with pytest.raises(CheckpointError) as caught:
        kept_state(path, {"seed": 1, "batch_size": 16, "width": 4})
    assert str(caught.value) == f"{path} belongs to a run with other options: seed, batch size."
    assert "delete the file" in caught.value.hint


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt.resume"
    path.write_bytes(b"not a file of torch")
    with pytest.raises(CheckpointError, match=r"model\.pt\.resume"):
        kept_state(path, {})
