"""Texts with labels out of a .csv or .jsonl, as token ids of a vocabulary of the most frequent words.

    text,label          two columns or fields of these names; others are left out
    split               "train" or "test" where there is such a column; else a fifth of each class is kept for tests

Words are lower case letters and digits with apostrophes, and single marks. Id 0 is padding, 1 a word that the
vocabulary does not have; it is made of the training texts alone.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paraformer.data.labelled import Dataset, Labelled, checked, kept_apart
from paraformer.errors import DatasetError

SUFFIXES = (".csv", ".tsv", ".jsonl")
HINT = "Each line must have a text and a label: columns `text,label` of a .csv, or such fields of a .jsonl."
PADDING, UNKNOWN = "[PAD]", "[UNK]"
VOCABULARY, TOKENS = 8_192, 128
_LONGEST = 32  # characters for each token: what is behind them is not read
_WORD = re.compile(r"[a-z0-9']+|[^\sa-z0-9']")
_TAG = re.compile(r"<[a-z]+ ?/?>")


def has_texts(folder: Path) -> bool:
    """Whether a folder holds one file of texts."""
    return _only_file(folder) is not None


def read_text_folder(folder: Path, tokens: int = TOKENS, seed: int = 0) -> Dataset:
    """The one file of texts of a folder; see `read_texts`."""
    file = _only_file(folder)
    if file is None:
        raise DatasetError(f"{folder} holds no single file of texts.", HINT)
    return read_texts(file, tokens, seed)


def read_texts(path: Path, tokens: int = TOKENS, seed: int = 0, most: int = VOCABULARY) -> Dataset:
    """All texts of a file.

    Args:
        path: .csv, .tsv or .jsonl.
        tokens: of a text; longer ones are cut, shorter ones padded at the end.
        seed: of what is kept for tests.
        most: words of the vocabulary at most.

    Raises:
        DatasetError: a file that cannot be read, or a line without a text or a label.
    """
    rows = _rows(path)
    for number, row in enumerate(rows, 1):
        if row.get("text") in (None, "") or row.get("label") in (None, ""):
            raise DatasetError(f"Sample {number} of {path} has no text or no label.", HINT)
    classes = tuple(sorted({str(row["label"]) for row in rows}, key=lambda name: (len(name), name)))
    numbers = {name: number for number, name in enumerate(classes)}
    labels = torch.tensor([numbers[str(row["label"])] for row in rows], dtype=torch.int64)
    places = torch.arange(len(rows))
    splits = [str(row.get("split") or "") for row in rows]
    if any(splits):
        train, test = (places[[split == name for split in splits]] for name in ("train", "test"))
    else:
        train, test = (part.inputs[0] for part in kept_apart(Labelled((places,), labels), seed))
    texts = [words_of(str(row["text"])[: tokens * _LONGEST]) for row in rows]
    words = vocabulary((texts[place] for place in train.tolist()), most)
    inputs = encoded(texts, words, tokens)
    parts = [Labelled(tuple(value[chosen] for value in inputs), labels[chosen]) for chosen in (train, test)]
    return checked(Dataset(path.stem, parts[0], parts[1], classes, words), HINT)


def words_of(text: str) -> list[str]:
    """The words and marks of a text, without tags of HTML."""
    return _WORD.findall(_TAG.sub(" ", text.lower()))


def vocabulary(texts: Iterable[Sequence[str]], most: int = VOCABULARY) -> tuple[str, ...]:
    """Padding, the unknown word, and the most frequent words; of equally frequent ones the first in the alphabet."""
    counts = Counter(word for text in texts for word in text)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return (PADDING, UNKNOWN, *ranked[: most - 2])


def encoded(texts: Sequence[Sequence[str]], words: Sequence[str], tokens: int) -> tuple[Tensor, Tensor]:
    """Token ids and mask (n, tokens), int64; the mask is 0 at padding. A text without words is one unknown word."""
    numbers = {word: number for number, word in enumerate(words)}
    rows = [[numbers.get(word, 1) for word in text[:tokens]] or [1] for text in texts]
    ids = torch.tensor([row + [0] * (tokens - len(row)) for row in rows], dtype=torch.int64).reshape(-1, tokens)
    return ids, (ids != 0).long()


def _only_file(folder: Path) -> Path | None:
    files = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES]
    return files[0] if len(files) == 1 else None


def _rows(path: Path) -> list[Mapping[str, Any]]:
    csv.field_size_limit(2**31 - 1)  # a review may be long
    try:
        with path.open(encoding="utf-8", newline="") as file:
            if path.suffix.lower() == ".jsonl":
                rows = [json.loads(line) for line in file if line.strip()]
            else:
                rows = list(csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    except (OSError, ValueError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read as texts: {error}.", HINT) from error
    if not rows:
        raise DatasetError(f"{path} holds no texts.", HINT)
    if not all(isinstance(row, dict) for row in rows):
        raise DatasetError(f"{path} has a line that is no object with fields.", HINT)
    return rows
