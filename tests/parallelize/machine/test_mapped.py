"""Tensors in a mapped file: equal to what was written, dropped and read again, gone with the last of them."""

from __future__ import annotations

import gc
from contextlib import closing
from pathlib import Path

import pytest
import torch

from parallelize.machine.mapped import MappedFile, is_mapped, let_go, padded


def _data(size: int) -> torch.Tensor:
    return torch.arange(size, dtype=torch.int64).remainder(251).to(torch.uint8)


def _taken(data: torch.Tensor, folder: Path) -> torch.Tensor:
    with closing(MappedFile(len(data), str(folder))) as file:
        return file.take(data)


def _anonymous_and_file() -> tuple[int, int]:
    """Resident memory of this process in bytes, that of no file and that of files."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    anonymous, file = (int(lines[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile"))
    return anonymous, file


def test_what_is_taken_in_comes_back_and_each_piece_lies_alone(tmp_path: Path) -> None:
    pieces = [_data(1000), torch.empty(0, dtype=torch.uint8), _data(7), _data(100)]
    with closing(MappedFile(sum(padded(len(piece)) for piece in pieces), str(tmp_path))) as file:
        there = [file.take(piece) for piece in pieces]
    assert all(torch.equal(*pair) for pair in zip(there, pieces, strict=True))
    assert [part.untyped_storage().nbytes() for part in there] == [1000, 0, 7, 100]
    assert [is_mapped(part) for part in there] == [True, False, True, True]
    assert not any(map(is_mapped, pieces))
    assert all((part.data_ptr() - there[0].data_ptr()) % 64 == 0 for part in there if len(part))


def test_what_is_let_go_is_read_again_with_changes_made_in_place(tmp_path: Path) -> None:
    part = _taken(_data(64), tmp_path)
    part[3] = 77
    let_go()
    assert part[3] == 77
    assert torch.equal(part[4:], _data(64)[4:])


def test_no_file_is_left_and_its_memory_goes_with_the_last_piece(tmp_path: Path) -> None:
    part = _taken(_data(1 << 20), tmp_path)
    place = part[:1]
    assert list(tmp_path.iterdir()) == []
    del part
    gc.collect()
    assert is_mapped(place)
    address = place.data_ptr()
    del place
    gc.collect()
    assert not any(int(line.split("-")[0], 16) == address for line in Path("/proc/self/maps").read_text().splitlines())


def test_pages_count_as_those_of_a_file_and_go_when_they_are_let_go(tmp_path: Path) -> None:
    size = 1 << 26
    part = _taken(torch.ones(size, dtype=torch.uint8), tmp_path)
    let_go()
    before = _anonymous_and_file()
    assert int(part.view(torch.int64).sum()) != 0
    used = _anonymous_and_file()
    assert used[1] - before[1] > 0.9 * size
    assert used[0] - before[0] < 0.5 * size
    let_go()
    assert _anonymous_and_file()[1] - before[1] < 0.1 * size


def test_a_folder_that_cannot_be_written_to_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        MappedFile(10, str(tmp_path / "gone"))
