"""A program is written as an archive, and a full disk is an error that the caller can tell of."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch

from parallelize.models import saving
from parallelize.models.saving import save_program
from tests.parallelize.small_models import images, vision


def test_what_was_written_loads_and_computes_the_same(tmp_path: Path) -> None:
    save_program(vision(2), tmp_path / "m.pt2")
    pixels = images(3, 0).arrays["images"]
    assert torch.equal(torch.export.load(tmp_path / "m.pt2").module()(pixels), vision(2).module(pixels))


@pytest.mark.parametrize("room", [0, 1000, 20_000])
def test_a_disk_that_becomes_full_is_an_error_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    class Full(saving._Lasting):
        def __init__(self, raw: io.FileIO) -> None:
            super().__init__(_Small(raw, room))  # type: ignore[arg-type]

    monkeypatch.setattr(saving, "_Lasting", Full)
    with pytest.raises(OSError, match="No space left on device"):
        save_program(vision(2), tmp_path / "m.pt2")
    assert (tmp_path / "m.pt2").stat().st_size == room


class _Small:
    """A file on a disk with little room."""

    def __init__(self, raw: io.FileIO, room: int) -> None:
        self.raw, self.room = raw, room

    def write(self, data: memoryview) -> int:
        if not self.room:
            raise OSError(28, "No space left on device")
        written = self.raw.write(data[: self.room])
        self.room -= written
        return written
