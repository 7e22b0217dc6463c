"""A folder of pictures: classes are folders, sizes and colours become one, and strange files are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from paraformer.data.pictures import has_pictures, read_pictures
from paraformer.errors import DatasetError


def _picture(path: Path, value: int, size: tuple[int, int] = (6, 6), mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, 0, 0)).save(path)


def _classes(root: Path, count: int = 5) -> Path:
    for number, name in enumerate(("cat", "dog")):
        for place in range(count):
            _picture(root / name / f"{place}.png", 10 * number + place)
    return root


def test_folders_are_classes_and_a_fifth_is_kept_for_tests(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()  # a folder without pictures is no class
    assert not has_pictures(tmp_path)
    data = read_pictures(_classes(tmp_path))
    assert has_pictures(tmp_path)
    assert data.classes == ("cat", "dog")
    assert (len(data.train), len(data.test)) == (8, 2)
    assert data.sample_shape == (1, 6, 6)
    values = torch.cat([data.train.inputs[0], data.test.inputs[0]])[:, 0, 0, 0]
    labels = torch.cat([data.train.labels, data.test.labels])
    assert sorted(values.tolist()) == [*range(5), *range(10, 15)]
    assert torch.equal(values >= 10, labels == 1)


@pytest.mark.parametrize("name", ["test", "val", "valid", "validation"])
def test_a_split_of_the_folder_is_kept(tmp_path: Path, name: str) -> None:
    _classes(tmp_path / "train", 3)
    _picture(tmp_path / name / "dog" / "one.png", 99)
    data = read_pictures(tmp_path)
    assert len(data.train) == 6
    assert data.test.inputs[0].unique().tolist() == [99]
    assert data.test.labels.tolist() == [1]


def test_pictures_come_to_one_size_by_their_middle(tmp_path: Path) -> None:
    wide = np.zeros((8, 16), np.uint8)
    wide[:, 4:12] = 200
    (tmp_path / "a").mkdir()
    Image.fromarray(wide).save(tmp_path / "a" / "wide.png")
    for place in range(4):
        _picture(tmp_path / "a" / f"{place}.png", 200, (8, 8))
    data = read_pictures(tmp_path, size=4)
    assert data.sample_shape == (1, 4, 4)
    assert min(data.train.inputs[0].min(), data.test.inputs[0].min()) >= 180


def test_one_coloured_picture_makes_all_of_them_coloured(tmp_path: Path) -> None:
    _classes(tmp_path)
    assert read_pictures(tmp_path).sample_shape == (1, 6, 6)
    _picture(tmp_path / "cat" / "red.png", 255, mode="RGB")
    assert read_pictures(tmp_path).sample_shape == (3, 6, 6)


def test_a_class_that_only_the_tests_have_is_refused(tmp_path: Path) -> None:
    _classes(tmp_path / "train")
    _picture(tmp_path / "test" / "bird" / "one.png", 1)
    with pytest.raises(DatasetError, match=r"test has the class 'bird', which .*train has not"):
        read_pictures(tmp_path)


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    _classes(tmp_path)
    (tmp_path / "dog" / "3.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"dog/3\.png cannot be read as a picture"):
        read_pictures(tmp_path)


def test_a_split_without_pictures_is_refused(tmp_path: Path) -> None:
    _classes(tmp_path / "train")
    (tmp_path / "test").mkdir()
    with pytest.raises(DatasetError, match="has no test images") as caught:
        read_pictures(tmp_path)
    assert "DIR/CLASS" in caught.value.hint
