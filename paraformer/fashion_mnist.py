"""Fashion-MNIST from the IDX files of the Debian package `dataset-fashion-mnist`.

Xiao, Rasul, Vollgraf: "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms",
arXiv 1708.07747, MIT licence. 60,000 training and 10,000 test images of 28 x 28 grey pixels in ten classes.
"""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from paraformer.errors import DatasetError

DEFAULT_ROOT = Path("/usr/share/datasets/fashion-mnist")
INSTALL_HINT = (
    "Install it with `apt-get install dataset-fashion-mnist`, or name the folder of the IDX files with --data."
)
CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

Split = Literal["train", "test"]
_PREFIX: dict[Split, str] = {"train": "train", "test": "t10k"}
_UNSIGNED_BYTE = 0x08


@dataclass(frozen=True)
class LabelledImages:
    """Images (n, 1, 28, 28) and labels (n,), both uint8."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def read_idx(path: Path) -> Tensor:
    """Read one gzipped IDX file of unsigned bytes: a uint8 tensor of the shape that its header states.

    Raises:
        DatasetError: the file is absent, damaged, or of another element type.
    """
    try:
        raw = gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise DatasetError(f"Fashion-MNIST is not here: {path} does not exist.", INSTALL_HINT) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path} cannot be read: {error}.", INSTALL_HINT) from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != _UNSIGNED_BYTE:
        raise DatasetError(f"{path} is not an IDX file of unsigned bytes.", INSTALL_HINT)
    dimensions = raw[3]
    header = 4 + 4 * dimensions
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions)]
    if len(raw) != header + math.prod(shape):
        raise DatasetError(f"{path} is truncated: its header promises the shape {shape}.", INSTALL_HINT)
    if 0 in shape:
        return torch.empty(shape, dtype=torch.uint8)
    return torch.frombuffer(bytearray(raw[header:]), dtype=torch.uint8).reshape(shape)


def load(split: Split, root: Path = DEFAULT_ROOT) -> LabelledImages:
    """Load one split.

    Raises:
        DatasetError: a file is absent or damaged, or images and labels differ in number.
    """
    images = read_idx(root / f"{_PREFIX[split]}-images-idx3-ubyte.gz")
    labels = read_idx(root / f"{_PREFIX[split]}-labels-idx1-ubyte.gz")
    if len(images) != len(labels):
        raise DatasetError(f"{root} holds {len(images)} {split} images but {len(labels)} labels.", INSTALL_HINT)
    return LabelledImages(images.unsqueeze(1), labels)


def augment(images: Tensor, generator: torch.Generator, shift: int = 2) -> Tensor:
    """Shift each image by up to `shift` pixels in both directions and mirror every other one at random.

    Args:
        images: (n, 1, height, width), any dtype; zeros come in from the border.
        generator: where the randomness comes from, so that a seed repeats a run.
        shift: largest displacement in pixels.

    Returns:
        A new tensor of the same shape and dtype.
    """
    count, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (shift, shift, shift, shift))
    down, right = torch.randint(0, 2 * shift + 1, (2, count), generator=generator)
    mirror = torch.rand(count, generator=generator) < 0.5
    rows = down[:, None] + torch.arange(height)
    columns = right[:, None] + torch.where(mirror[:, None], torch.arange(width - 1, -1, -1), torch.arange(width))
    samples = torch.arange(count)
    return padded[samples[:, None, None], 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)
