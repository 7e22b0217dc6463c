"""Pictures as arrays of bytes, and a folder of pictures as a data set.

    DIR/train/CLASS/*.png  and  DIR/test/CLASS/*.png     or val, valid or validation in the place of test
    DIR/CLASS/*.png                                      a fifth of each class is kept for tests

All pictures are brought to one size: the shorter side is scaled to it, and the middle is cut out. Grey ones stay grey
where all are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paraformer.data.labelled import Dataset, Labelled, checked, kept_apart
from paraformer.errors import DatasetError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
HINT = "A folder of pictures has a folder for each class: DIR/CLASS/*.png, or DIR/train/CLASS/*.png and DIR/test/..."
_TESTS = ("test", "val", "valid", "validation")
_GREY = ("1", "L", "LA", "I", "I;16", "F")


def read_picture(path: Path, mode: str) -> NDArray[np.uint8]:
    """The pixels of one picture, (height, width) for mode "L" and (height, width, 3) for "RGB".

    Raises:
        DatasetError: the file is no picture, or damaged.
    """
    with _opened(path) as picture:
        return np.array(picture.convert(mode), dtype=np.uint8)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            yield picture
    except (OSError, ValueError, SyntaxError) as error:
        raise DatasetError(f"{path} cannot be read as a picture: {error}.", HINT) from error


def has_pictures(folder: Path) -> bool:
    """Whether a folder has folders of pictures."""
    return any(_is_picture(path) for pattern in ("*/*", "*/*/*") for path in folder.glob(pattern))


def read_pictures(folder: Path, size: int | None = None, seed: int = 0) -> Dataset:
    """All pictures of a folder.

    Args:
        folder: of folders, one for each class.
        size: side of the square that pictures are brought to, in pixels; None is that of the first one, the shorter.
        seed: of what is kept for tests.

    Raises:
        DatasetError: no pictures, a damaged one, or a class that only one split has.
    """
    test = next((folder / name for name in _TESTS if (folder / name).is_dir()), None)
    if (folder / "train").is_dir() and test is not None:
        return _of_splits(folder, folder / "train", test, size)
    classes = _classes(folder)
    files = _files(folder, classes)
    train, kept = kept_apart(_labelled(files, *_form(files, size)), seed)
    return checked(Dataset(folder.resolve().name, train, kept, classes), HINT)


def _of_splits(folder: Path, train: Path, test: Path, size: int | None) -> Dataset:
    classes, others = _classes(train), _classes(test)
    strange = next((name for name in others if name not in classes), None)
    if strange is not None:
        raise DatasetError(f"{test} has the class {strange!r}, which {train} has not.", HINT)
    parts = [_files(split, classes) for split in (train, test)]
    form = _form([*parts[0], *parts[1]], size)
    read = [_labelled(part, *form) for part in parts]
    return checked(Dataset(folder.resolve().name, read[0], read[1], classes), HINT)


def _classes(folder: Path) -> tuple[str, ...]:
    """Names of folders with pictures."""
    return tuple(sorted(path.name for path in folder.iterdir() if any(map(_is_picture, path.glob("*")))))


def _files(folder: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """Pictures with the numbers of their classes."""
    return [
        (path, number)
        for number, name in enumerate(classes)
        for path in sorted((folder / name).glob("*"))
        if _is_picture(path)
    ]


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _form(files: Sequence[tuple[Path, int]], size: int | None) -> tuple[str, int]:
    """Colours and side that all pictures are brought to."""
    grey, side = True, size
    for path, _ in files:
        with _opened(path) as picture:
            grey, side = grey and picture.mode in _GREY, side or min(picture.size)
    return "L" if grey else "RGB", side or 1


def _labelled(files: Sequence[tuple[Path, int]], mode: str, size: int) -> Labelled:
    images = [_square(path, mode, size) for path, _ in files]
    none = torch.empty(0, 1 if mode == "L" else 3, size, size, dtype=torch.uint8)
    labels = torch.tensor([number for _, number in files], dtype=torch.int64)
    return Labelled((torch.stack(images) if images else none,), labels)


def _square(path: Path, mode: str, size: int) -> Tensor:
    """(channels, size, size) of uint8."""
    from PIL import Image

    picture = Image.fromarray(read_picture(path, mode))
    width, height = picture.size
    if (width, height) != (size, size):
        scale = size / min(width, height)
        picture = picture.resize((max(size, round(width * scale)), max(size, round(height * scale))))
        left, top = (picture.width - size) // 2, (picture.height - size) // 2
        picture = picture.crop((left, top, left + size, top + size))
    pixels = torch.from_numpy(np.array(picture, dtype=np.uint8))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()
