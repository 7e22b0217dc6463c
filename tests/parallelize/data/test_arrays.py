"""Arrays are read whole or by their headers, and a file that cannot be read is refused by what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parallelize.data import UNNAMED, read_arrays, read_headers, readable
from parallelize.data.arrays import listed
from passes.errors import ParallelizeError


def test_arrays_are_read_by_their_names_and_that_of_an_npy_has_none(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.arange(3), y=np.zeros((2, 2)))
    np.save(tmp_path / "data.npy", np.arange(4))
    assert {name: array.shape for name, array in read_arrays(tmp_path / "data.npz").items()} == {"x": (3,), "y": (2, 2)}
    assert list(read_arrays(tmp_path / "data.npz", iter(["absent", "y"]))) == ["y"]
    assert read_arrays(tmp_path / "data.npy")[UNNAMED].tolist() == [0, 1, 2, 3]
    assert read_headers(tmp_path / "data.npy")[UNNAMED].shape == (4,)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_headers_tell_shapes_and_dtypes_without_the_data(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "data.npz", x=np.ones((5, 1000), np.float16), t=np.int64(3))
    found = read_headers(tmp_path / "data.npz")
    assert {name: (array.shape, str(array.dtype)) for name, array in found.items()} == {
        "x": ((5, 1000), "float16"),
        "t": ((), "int64"),
    }
    assert found["x"].strides == (0, 0)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, images=np.zeros((3, 1)))
    path.write_bytes(path.read_bytes()[:100])
    objects = tmp_path / "objects.npz"
    np.savez(objects, images=np.array([{}], object))
    (tmp_path / "folder.npz").mkdir()
    for file, sentence in {
        path: "is damaged.",
        objects: "holds Python objects, which are not read.",
        tmp_path / "absent.npz": "does not exist.",
        tmp_path / "folder.npz": "is a directory.",
        tmp_path / "data.csv": "is neither .npz nor .npy.",
    }.items():
        for read in (read_arrays, read_headers):
            with pytest.raises(ParallelizeError) as caught:
                read(file)
            assert str(caught.value) == f"{file} {sentence}"
            assert caught.value.hint


def test_a_damaged_array_inside_a_whole_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez_compressed(path, images=np.random.default_rng(0).normal(size=(9, 1, 2, 2)))
    content = bytearray(path.read_bytes())
    content[150:170] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(ParallelizeError, match=r"data\.npz is damaged\."):
        read_arrays(path)


def test_an_encrypted_archive_is_refused_in_the_words_of_its_reader(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=np.zeros(3))
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the flag of the array's own header, and below that of the list of contents
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    for read in (read_arrays, read_headers):
        with pytest.raises(
            ParallelizeError, match=r"data.npz cannot be read: .*x.npy.* is encrypted, password required"
        ):
            read(path)


def test_a_file_that_may_not_be_read_is_told_from_an_absent_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with pytest.raises(ParallelizeError, match=r"absent does not exist\.$"):
        readable(tmp_path / "absent")
    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(ParallelizeError, match=r"closed cannot be read: Permission denied\.$"):
        readable(tmp_path / "closed")


def test_names_are_listed_for_a_sentence() -> None:
    assert listed(["x", ""]) == "'x', an array without a name"
    assert listed([]) == "nothing"
