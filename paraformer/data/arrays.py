"""A .npz of the user's own.

images          (n, height, width), (n, channels, height, width) or (n, height, width, channels), values 0 to 255
input_ids       (n, tokens) in the place of images; attention_mask beside it, else every token counts
labels          (n,)
test_...        the same names for tests; without them a fifth of each class is kept for that

Nothing of the file is run.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paraformer.data.labelled import Dataset, Labelled, checked, kept_apart, numbered
from paraformer.errors import DatasetError

HINT = "It must hold images or input_ids, and labels; test_images and test_labels are optional."
_CHANNELS = (3, 1, 4)  # what is most likely first: an axis of 4 may be a side as well


def read_arrays(path: Path, seed: int = 0) -> Dataset:
    """A file of arrays.

    Raises:
        DatasetError: the file is damaged, an array is missing or of a strange shape, or labels do not fit.
    """
    arrays = _loaded(path)
    train = _part(arrays, "", path)
    has_test = any(name.startswith("test_") for name in arrays)
    train, test = (train, _part(arrays, "test_", path)) if has_test else kept_apart(_fitting(train, path), seed)
    words: tuple[str, ...] = ()
    if "input_ids" in arrays:
        words = tuple(map(str, range(int(max(part.inputs[0].max() for part in (train, test) if len(part))) + 1)))
    return checked(Dataset(path.stem, train, test, numbered(train, test), words), HINT)


def _loaded(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError, RuntimeError) as error:
        raise DatasetError(f"{path} cannot be read as .npz: {error}.", HINT) from error


def _part(arrays: Mapping[str, Any], prefix: str, path: Path) -> Labelled:
    labels = _array(arrays, f"{prefix}labels", path)
    if labels.ndim != 1 or labels.dtype.is_floating_point:
        raise DatasetError(f"The array {prefix}labels of {path} is no list of whole numbers.", HINT)
    if "input_ids" in arrays:
        ids = _array(arrays, f"{prefix}input_ids", path).long()
        name = f"{prefix}attention_mask"
        mask = _array(arrays, name, path).long() if name in arrays else torch.ones_like(ids)
        if ids.ndim != 2 or ids.shape != mask.shape or bool((ids < 0).any()):
            raise DatasetError(f"{prefix}input_ids of {path} must be (n, tokens), from 0, with a mask as large.", HINT)
        return Labelled((ids, mask), labels.long())
    return Labelled((_images(_array(arrays, f"{prefix}images", path), f"{prefix}images", path),), labels.long())


def _fitting(data: Labelled, path: Path) -> Labelled:
    """The samples, if they can be split."""
    if len(data.inputs[0]) != len(data.labels):
        raise DatasetError(f"{path} holds {len(data.inputs[0])} samples but {len(data.labels)} labels.", HINT)
    if bool((data.labels < 0).any()):
        raise DatasetError(f"{path} has the label {int(data.labels.min())}, but classes count from 0.", HINT)
    return data


def _array(arrays: Mapping[str, Any], name: str, path: Path) -> Tensor:
    if name not in arrays:
        raise DatasetError(f"{path} has no array {name!r}, but {', '.join(sorted(arrays)) or 'none'}.", HINT)
    try:
        return torch.from_numpy(np.ascontiguousarray(arrays[name]))
    except TypeError as error:
        raise DatasetError(f"The array {name} of {path} holds no numbers that torch has.", HINT) from error


def _images(images: Tensor, name: str, path: Path) -> Tensor:
    """(n, channels, height, width) of uint8."""
    if images.ndim == 3:
        images = images.unsqueeze(1)
    elif images.ndim == 4 and _rank(images.shape[3]) < _rank(images.shape[1]):
        images = images.permute(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in _CHANNELS:
        shape = "x".join(map(str, images.shape))
        raise DatasetError(f"The array {name} of {path} has the shape {shape}, which is not one of images.", HINT)
    if images.numel() and not (bool(images.min() >= 0) and bool(images.max() <= 255)):
        raise DatasetError(f"The array {name} of {path} has values outside of 0 to 255.", HINT)
    if images.dtype.is_floating_point and images.numel() and float(images.max()) <= 1:
        raise DatasetError(f"The array {name} of {path} has values from 0 to 1, not from 0 to 255.", HINT)
    return images.round().to(torch.uint8) if images.dtype.is_floating_point else images.to(torch.uint8)


def _rank(size: int) -> int:
    return _CHANNELS.index(size) if size in _CHANNELS else len(_CHANNELS)
