"""IDX files, gzipped or not, the format of MNIST and of Fashion-MNIST.

    MNIST            LeCun, Cortes, Burges; 60,000 training and 10,000 test images of 28 x 28 grey pixels, ten digits
    Fashion-MNIST    Xiao, Rasul, Vollgraf, arXiv 1708.07747, MIT licence; as many, of ten kinds of clothes

Both have the same four names of files. Which one it is cannot be told from them; the name of the folder says it.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import torch
from torch import Tensor

from paraformer.data.labelled import Dataset, Labelled, checked, numbered
from paraformer.errors import DatasetError

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
HINT = "Install it with `apt-get install dataset-fashion-mnist`, or name a folder of whole IDX files with --data."
CLOTHES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_PREFIXES = ("train", "t10k")
_GZIP, _UNSIGNED_BYTE = b"\x1f\x8b", 0x08


def has_idx_files(folder: Path) -> bool:
    """Whether a folder holds images as IDX."""
    return _file(folder, "train-images-idx3-ubyte").exists()


def read_idx_folder(folder: Path) -> Dataset:
    """Both splits of a folder.

    Raises:
        DatasetError: a file is absent or damaged, or images and labels do not fit each other.
    """
    train, test = (_split(folder, prefix) for prefix in _PREFIXES)
    is_fashion = "fashion" in folder.resolve().name
    numbers = numbered(train, test)
    classes = CLOTHES if is_fashion and len(numbers) <= len(CLOTHES) else numbers
    name = "Fashion-MNIST" if is_fashion else folder.resolve().name
    return checked(Dataset(name, train, test, classes, mirrors=is_fashion), HINT)


def read_idx(path: Path) -> Tensor:
    """One IDX file of unsigned bytes: a uint8 tensor of the shape that its header states.

    Raises:
        DatasetError: the file is absent, damaged, or of another element type.
    """
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if raw.startswith(_GZIP) else raw
    except FileNotFoundError:
        raise DatasetError(f"There is no data: {path} does not exist.", HINT) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path} cannot be read: {error}.", HINT) from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != _UNSIGNED_BYTE:
        raise DatasetError(f"{path} is not an IDX file of unsigned bytes.", HINT)
    dimensions = raw[3]
    header = 4 + 4 * dimensions
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions)]
    if len(raw) != header + math.prod(shape):
        raise DatasetError(f"{path} is truncated: its header promises the shape {shape}.", HINT)
    if 0 in shape:
        return torch.empty(shape, dtype=torch.uint8)
    return torch.frombuffer(bytearray(raw[header:]), dtype=torch.uint8).reshape(shape)


def _file(folder: Path, name: str) -> Path:
    """The file of a name, gzipped or not."""
    plain = folder / name
    return plain if plain.exists() else folder / f"{name}.gz"


def _split(folder: Path, prefix: str) -> Labelled:
    images = read_idx(_file(folder, f"{prefix}-images-idx3-ubyte"))
    labels = read_idx(_file(folder, f"{prefix}-labels-idx1-ubyte"))
    if images.ndim != 3 or labels.ndim != 1:
        raise DatasetError(f"{folder} holds {images.ndim}-d images and {labels.ndim}-d labels, not 3-d and 1-d.", HINT)
    return Labelled((images.unsqueeze(1),), labels.long())
