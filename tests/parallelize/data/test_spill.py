"""A file without a name: bytes come back, places are used again, and nothing is left on the disk."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from parallelize.data.spill import Place, Spill, folder
from passes.errors import EnvironmentLackError


def _read(spill: Spill, place: Place) -> bytes:
    found = bytearray(place.size)
    spill.read(place, memoryview(found))
    return bytes(found)


def test_bytes_come_back_and_places_that_were_given_back_are_taken_again() -> None:
    """Against a dictionary, with sizes and moments drawn at random."""
    drawn, spill, there = random.Random(0), Spill(), {}
    for _ in range(400):
        if there and drawn.random() < 0.5:
            place = drawn.choice(list(there))
            assert _read(spill, place) == there.pop(place)
            spill.free(place)
        else:
            data = drawn.randbytes(drawn.choice([0, 1, 10, 100, 1000]))
            there[spill.write(memoryview(data))] = data
        assert spill.size == sum(map(len, there.values()))
    largest = spill._end
    assert {place: _read(spill, place) for place in there} == there
    for place in there:
        spill.free(place)
    assert (spill.size, spill._end) == (0, 0)
    assert largest < 400 * 300


def test_other_bytes_may_be_written_in_a_place() -> None:
    spill = Spill()
    before, place = spill.write(memoryview(b"abc")), spill.write(memoryview(b"defg"))
    spill.rewrite(place, memoryview(b"DEFG"))
    assert (_read(spill, before), _read(spill, place)) == (b"abc", b"DEFG")


def test_a_file_of_which_nothing_is_wanted_takes_no_room_on_the_disk() -> None:
    spill = Spill()
    place = spill.write(memoryview(bytes(10_000)))
    assert spill._file is not None
    assert os.fstat(spill._file.fileno()).st_size == 10_000
    spill.free(place)
    assert os.fstat(spill._file.fileno()).st_size == 0


def test_the_file_has_no_name_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    spill = Spill()
    spill.write(memoryview(b"abc"))
    assert folder() == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    code = "import os, signal; from parallelize.data.spill import Spill; s = Spill(); s.write(memoryview(bytes(9)));"
    kill = "os.kill(os.getpid(), signal.SIGKILL)"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", f"{code} {kill}"], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


class _FullDisk:
    """A file of which the disk takes so many bytes."""

    def __init__(self, left: int) -> None:
        self.left = left

    def seek(self, place: int) -> None: ...

    def truncate(self, size: int) -> None: ...

    def write(self, data: memoryview) -> int:
        if not self.left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = min(self.left, len(data))
        self.left -= taken
        return taken


def test_a_full_disk_is_one_sentence_and_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: _FullDisk(100))
    spill = Spill()
    with pytest.raises(
        EnvironmentLackError, match=rf"cannot be written to {folder()}: No space left on device\.$"
    ) as e:
        spill.write(memoryview(bytes(101)))
    assert "TMPDIR" in e.value.hint
    assert "--buffer" in e.value.hint
    assert spill.size == 0


def test_no_folder_to_write_to_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    with pytest.raises(EnvironmentLackError, match="Read-only file system"):
        Spill().write(memoryview(b"abc"))


def test_a_file_that_was_cut_off_is_an_error_and_no_other_number(monkeypatch: pytest.MonkeyPatch) -> None:
    spill = Spill()
    place = spill.write(memoryview(b"abcdef"))
    assert spill._file is not None
    spill._file.truncate(3)
    with pytest.raises(EnvironmentLackError, match="lost"):
        _read(spill, place)
