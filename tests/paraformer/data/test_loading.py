"""A path says by its files what data it is; what is none is refused with what there may be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paraformer.data.loading import load_data
from paraformer.errors import DatasetError
from tests.paraformer.idx_files import stripes, write_split


def test_each_kind_of_path_is_known(tmp_path: Path) -> None:
    for prefix in ("train", "t10k"):
        write_split(tmp_path / "idx", prefix, stripes(6, 8, 0))
    for name in ("a", "b"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("L", (4, 4), number).save(tmp_path / "pictures" / name / f"{number}.png")
    np.savez(tmp_path / "own.npz", images=np.zeros((10, 4, 4), np.uint8), labels=np.arange(10) % 2)
    (tmp_path / "own.csv").write_text("text,label\n" + "good,1\nbad,0\n" * 5)
    found = {name: load_data(tmp_path / name) for name in ("idx", "pictures", "own.npz", "own.csv")}
    shapes = {name: data.sample_shape for name, data in found.items()}
    assert shapes == {"idx": (1, 8, 8), "pictures": (1, 4, 4), "own.npz": (1, 4, 4), "own.csv": (128,)}
    assert load_data(tmp_path / "pictures", size=2).sample_shape == (1, 2, 2)
    assert load_data(tmp_path / "own.csv", tokens=3).sample_shape == (3,)


def test_what_is_not_there_or_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"There is no data: .*absent does not exist") as caught:
        load_data(tmp_path / "absent")
    assert "Name a folder" in caught.value.hint
    with pytest.raises(DatasetError, match="holds no images and no texts that are known"):
        load_data(tmp_path)
    (tmp_path / "model.bin").touch()
    with pytest.raises(DatasetError, match=r"model\.bin is no data that can be learned from"):
        load_data(tmp_path / "model.bin")
