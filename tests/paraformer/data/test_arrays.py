"""A .npz of images or of token ids becomes a data set, or one sentence names the array that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paraformer.data.arrays import read_arrays
from paraformer.errors import DatasetError

IMAGES = np.arange(10 * 3 * 4 * 4, dtype=np.uint8).reshape(10, 3, 4, 4)
LABELS = np.arange(10) % 2


def _file(root: Path, **arrays: Any) -> Path:
    np.savez(root / "own.npz", **arrays)
    return root / "own.npz"


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (IMAGES, (3, 4, 4)),
        (IMAGES.transpose(0, 2, 3, 1), (3, 4, 4)),
        (IMAGES[:, 0], (1, 4, 4)),
        (IMAGES.astype(np.float32), (3, 4, 4)),
    ],
    ids=["channels first", "channels last", "grey", "floats"],
)
def test_images_of_any_layout_become_bytes_with_channels_first(
    tmp_path: Path, images: Any, shape: tuple[int, ...]
) -> None:
    data = read_arrays(_file(tmp_path, images=images, labels=LABELS))
    assert data.sample_shape == shape
    assert data.train.inputs[0].dtype == torch.uint8
    assert (len(data.train), len(data.test), data.classes) == (8, 2, ("0", "1"))
    assert torch.cat([data.train.inputs[0], data.test.inputs[0]]).sum() == int(images.astype(np.int64).sum())


def test_test_arrays_are_the_tests(tmp_path: Path) -> None:
    data = read_arrays(
        _file(tmp_path, images=IMAGES, labels=LABELS, test_images=IMAGES[:3], test_labels=LABELS[:3] + 4)
    )
    assert (len(data.train), len(data.test), len(data.classes)) == (10, 3, 7 - 1)


def test_token_ids_come_with_a_mask(tmp_path: Path) -> None:
    ids = np.array([[5, 2, 0], [1, 0, 0]] * 5)
    data = read_arrays(_file(tmp_path, input_ids=ids, labels=LABELS))
    assert data.is_text
    assert len(data.words) == 6
    assert bool((data.train.inputs[1] == 1).all())
    data = read_arrays(_file(tmp_path, input_ids=ids, attention_mask=ids != 0, labels=LABELS))
    assert torch.equal(data.train.inputs[1], (data.train.inputs[0] != 0).long())


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": IMAGES}, "has no array 'labels', but images"),
        ({"labels": LABELS}, "has no array 'images', but labels"),
        ({"images": IMAGES, "labels": LABELS, "test_images": IMAGES}, "has no array 'test_labels'"),
        ({"images": IMAGES, "labels": LABELS[:4]}, "holds 10 samples but 4 labels"),
        ({"images": IMAGES, "labels": LABELS - 1}, "has the label -1"),
        ({"images": IMAGES, "labels": LABELS / 2}, "labels of .* is no list of whole numbers"),
        ({"images": IMAGES[:, 0, 0], "labels": LABELS}, "has the shape 10x1x4x4|has the shape 10x4, which is not"),
        ({"images": np.zeros((10, 2, 5, 5)), "labels": LABELS}, "has the shape 10x2x5x5, which is not one of images"),
        ({"images": IMAGES.astype(np.float32) - 1, "labels": LABELS}, "values outside of 0 to 255"),
        ({"images": IMAGES.astype(np.float32) / 255, "labels": LABELS}, "values from 0 to 1, not from 0 to 255"),
        ({"input_ids": np.zeros((10, 3, 2)), "labels": LABELS}, r"input_ids of .* must be \(n, tokens\)"),
        ({"input_ids": -np.ones((10, 3)), "labels": LABELS}, r"input_ids of .* must be \(n, tokens\), from 0"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        read_arrays(_file(tmp_path, **arrays))


@pytest.mark.parametrize("content", [b"", b"PK\3\4 truncated", b"no arrays"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(DatasetError, match=r"own\.npz cannot be read as \.npz"):
        read_arrays(tmp_path / "own.npz")


def test_pickled_objects_are_not_run(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"cannot be read as \.npz"):
        read_arrays(_file(tmp_path, images=np.array([object()], dtype=object), labels=LABELS))
