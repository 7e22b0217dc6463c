"""CIFAR-10: a picture's rows are images, its colours are channels, and what is not whole is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from paraformer.data.cifar10 import has_cifar10, read_cifar10
from paraformer.errors import DatasetError


def _folder(root: Path) -> tuple[Path, torch.Tensor]:
    """Five batches of two images and a test batch; all training images in their order."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (12, 3, 32, 32), generator=generator, dtype=torch.uint8)
    names = [f"data_batch_{number}.png" for number in range(1, 6)] + ["test_batch.png"]
    for name, part in zip(names, images.split(2), strict=True):
        Image.fromarray(part.permute(0, 2, 3, 1).reshape(2, 1024, 3).numpy()).save(root / name)
    (root / "train_lables.json").write_text(json.dumps([n % 10 for n in range(10)]))
    (root / "test_lables.json").write_text("[3, 9]")
    return root, images


def test_the_rows_of_a_picture_are_images_with_three_channels(tmp_path: Path) -> None:
    folder, images = _folder(tmp_path)
    assert has_cifar10(folder)
    data = read_cifar10(folder)
    assert torch.equal(data.train.inputs[0], images[:10])
    assert torch.equal(data.test.inputs[0], images[10:])
    assert data.train.labels.tolist() == list(range(10))
    assert [data.classes[number] for number in data.test.labels] == ["cat", "truck"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("data_batch_3.png", None, r"CIFAR-10 is not whole: .*data_batch_3\.png does not exist"),
        ("test_batch.png", b"no picture", r"test_batch\.png cannot be read as a picture"),
        ("train_lables.json", None, r"CIFAR-10 is not whole: .*train_lables\.json does not exist"),
        ("test_lables.json", b"{", r"test_lables\.json is no list of labels"),
        ("test_lables.json", b"[1]", "holds 2 test images but 1 labels"),
        ("test_lables.json", b"[1, 10]", "has the test label 10, but classes from 0 to 9"),
    ],
)
def test_a_file_that_is_absent_or_damaged_is_refused(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    folder, _ = _folder(tmp_path)
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    with pytest.raises(DatasetError, match=said):
        read_cifar10(folder)


def test_rows_of_another_length_are_refused(tmp_path: Path) -> None:
    folder, _ = _folder(tmp_path)
    Image.fromarray(np.zeros((2, 100, 3), np.uint8)).save(folder / "data_batch_1.png")
    with pytest.raises(DatasetError, match="has rows of 100 pixels, not 1024"):
        read_cifar10(folder)
