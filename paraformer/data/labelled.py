"""Labelled samples: what the model reads, and what it should say."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from paraformer.errors import DatasetError

_LOOKED_AT = 100  # samples of each split


@dataclass(frozen=True, eq=False)
class Labelled:
    """Samples of one split.

    Attributes:
        inputs: what the model reads, in its order, first axis samples: (images,) of uint8 (n, channels, height, width),
            or (token ids, mask) of int64 (n, tokens).
        labels: (n,), numbers of classes, int64.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def head(self, count: int | None) -> Labelled:
        """The first samples; all without a count."""
        return self if count is None else self[torch.arange(min(count, len(self)))]

    def __getitem__(self, chosen: Tensor) -> Labelled:
        """Some of the samples, by their numbers."""
        return Labelled(tuple(value[chosen] for value in self.inputs), self.labels[chosen])


@dataclass(frozen=True, eq=False)
class Dataset:
    """A problem of classification.

    Attributes:
        name: for people.
        train: samples to learn from.
        test: samples that are only scored.
        classes: names of the classes, by their numbers.
        words: of texts, by their token ids; none for images.
        mirrors: whether a mirrored image is of the same class.
    """

    name: str
    train: Labelled
    test: Labelled
    classes: tuple[str, ...]
    words: tuple[str, ...] = ()
    mirrors: bool = True

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the labels and of the first samples of both splits: whether it is the same data."""
        digest = hashlib.sha256()
        for part in (self.train, self.test):
            for value in (part.labels, *(value[:_LOOKED_AT] for value in part.inputs)):
                digest.update(value.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def is_text(self) -> bool:
        """Whether samples are token ids."""
        return bool(self.words)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Of one sample: (channels, height, width), or (tokens,)."""
        return tuple(self.train.inputs[0].shape[1:])

    @property
    def what(self) -> str:
        """Name and sizes, as a checkpoint records them."""
        kind = "texts" if self.is_text else "images"
        return f"{self.name}, {len(self.train):,} training {kind}; top1 on the {len(self.test):,} test {kind}"

    def head(self, count: int | None) -> Dataset:
        """The first samples of both splits; all without a count."""
        return replace(self, train=self.train.head(count), test=self.test.head(count))


def numbered(*parts: Labelled) -> tuple[str, ...]:
    """Classes that are called by their numbers, up to the largest label of some splits."""
    return tuple(map(str, range(int(max(part.labels.max() if len(part) else 0 for part in parts)) + 1)))


def checked(dataset: Dataset, hint: str) -> Dataset:
    """The data set, if there is something to learn and to score, and every label names a class.

    Raises:
        DatasetError: a split is empty, images or texts and labels differ in number, or a label has no class.
    """
    for split, data in (("training", dataset.train), ("test", dataset.test)):
        samples = "texts" if dataset.is_text else "images"
        count = len(data.inputs[0])
        if count != len(data.labels):
            raise DatasetError(f"{dataset.name} holds {count} {split} {samples} but {len(data.labels)} labels.", hint)
        if not count:
            raise DatasetError(f"{dataset.name} has no {split} {samples}.", hint)
        wrong = data.labels[(data.labels < 0) | (data.labels >= len(dataset.classes))]
        if len(wrong):
            raise DatasetError(
                f"{dataset.name} has the {split} label {int(wrong[0])}, but classes from 0 to"
                f" {len(dataset.classes) - 1}.",
                hint,
            )
    if dataset.train.inputs[0].shape[1:] != dataset.test.inputs[0].shape[1:]:
        shapes = ("x".join(map(str, part.inputs[0].shape[1:])) for part in (dataset.train, dataset.test))
        raise DatasetError(f"{dataset.name} has training samples of {' and test samples of '.join(shapes)}.", hint)
    return dataset


def kept_apart(data: Labelled, seed: int = 0, every: int = 5) -> tuple[Labelled, Labelled]:
    """Training and test samples, where there is no split: a fifth of each class, chosen by the seed, is kept for tests.

    One of `every` samples is; a class of fewer stays in training.
    """
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    ranked = order[data.labels[order].argsort(stable=True)]
    counts = data.labels.bincount()
    starts = counts.cumsum(0) - counts
    place = torch.arange(len(data)) - starts[data.labels[ranked]]
    is_test = place < counts[data.labels[ranked]] // every
    return data[ranked[~is_test].sort().values], data[ranked[is_test].sort().values]
