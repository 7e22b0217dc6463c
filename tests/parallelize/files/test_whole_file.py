"""A file appears whole or not at all, and what stood in the way is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from parallelize.files.whole_file import output_file, require_place
from passes.errors import EnvironmentLackError, ParallelizeError


def test_what_was_written_takes_the_place_of_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with output_file(path, "It failed") as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert [file.read_text() for file in tmp_path.iterdir()] == ["new"]


def _write_half(path: Path) -> None:
    path.write_text("half")
    raise ValueError("not a number")


def test_an_error_in_between_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ValueError, match="not a number"), output_file(path, "It failed") as temporary:
        _write_half(temporary)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_a_place_below_a_file_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with (
        pytest.raises(EnvironmentLackError, match=r"^It failed: .+\.$") as caught,
        output_file(tmp_path / "file" / "below", "It failed", "Look elsewhere.") as temporary,
    ):
        temporary.write_text("lost")
    assert caught.value.hint == "Look elsewhere."
    assert (tmp_path / "file").read_text() == "kept"


def test_a_place_that_can_be_written_to_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    require_place(tmp_path / "file", "It failed")
    require_place(tmp_path / "new", "It failed")
    require_place(Path("in_the_working_directory"), "It failed")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_a_place_that_cannot_be_written_to_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ParallelizeError, match=r"^It failed: it is a directory\.$") as caught:
        require_place(tmp_path, "It failed")
    assert caught.value.exit_code == 2
    (tmp_path / "file").write_text("kept")
    for folder in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(EnvironmentLackError, match=f"^It failed: there is no folder {folder}"):
            require_place(folder / "below", "It failed")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(EnvironmentLackError, match=r"^It failed: Permission denied\.$"):
        require_place(tmp_path / "new", "It failed")
