"""Samples, and how they are fed: one method makes every batch of this project.

A program may be free in its batch, be fixed to one, or read inputs that have no samples, such as a table of positions.
So for each input is told how many rows of its array belong to a sample:

    rows     1: an array with samples on its first axis; k: codebooks or views of each; 0: every batch gets it whole
    is_bare  the program reads one sample without an axis of samples (a time step); it is then fed one at a time

Where the program takes batches of one size only, all batches have it: the last one is filled up with samples that are
there already, which `counts` and `cut` leave out again. Arrays stay as they were stored, cast batch by batch, and a
part of the samples is an index into them: data is in memory once. It stays in the memory of the host; a batch is moved
to the device of whoever runs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from parallelize.data.buffer import Buffer
from parallelize.data.known_answers import KnownAnswers
from parallelize.data.room import Room

AT_ONCE = 2**23  # elements of an input that a batch has at most, where its size is left open


@dataclass(frozen=True)
class Feed:
    """How one input is fed.

    Attributes:
        rows: of the array's first axis for each sample; 0 where the array has no samples.
        dtype: that the program reads; None is that of the array.
        is_bare: whether the program reads a sample without an axis of samples.
    """

    rows: int = 1
    dtype: torch.dtype | None = None
    is_bare: bool = False


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of real or random data.

    Attributes:
        stored: one tensor for each input of the model, in the model's order, mostly with samples on its first axis.
        labels: class labels (n,) of int64, or None.
        mask: name of the input (n, tokens) that is 0 at padding, or None where nothing is padded.
        feeds: how inputs are fed that are not fed as they are stored.
        fixed: samples that the program takes at a time, where that is one number only.
        index: which samples of `stored` these are; None is all.
        device: where batches and masks are wanted; None is where the arrays are.
        room: how many of them fit there at a time.
        buffer: what is computed of them and held, by the whole job.
        answers: what a network is known to answer to all samples that are stored; None where nothing is known.
    """

    stored: Mapping[str, Tensor]
    labels: Tensor | None = None
    mask: str | None = None
    feeds: Mapping[str, Feed] = field(default_factory=dict)
    fixed: int | None = None
    index: Tensor | None = None
    device: torch.device | None = None
    room: Room = field(default_factory=Room)
    buffer: Buffer = field(default_factory=Buffer)
    answers: KnownAnswers | None = None

    def __len__(self) -> int:
        if self.index is not None:
            return len(self.index)
        return next(len(array) // rows for name, array in self.stored.items() if (rows := self.feed(name).rows))

    def feed(self, name: str) -> Feed:
        """How an input is fed."""
        return self.feeds.get(name, Feed())

    @property
    def whole(self) -> tuple[str, ...]:
        """The inputs that have no samples."""
        return tuple(name for name in self.stored if not self.feed(name).rows)

    @property
    def arrays(self) -> dict[str, Tensor]:
        """All of these samples by input, in the dtypes that the program reads; that takes memory."""
        return {name: self._part(name, slice(None)) for name in self.stored}

    def on(self, device: torch.device) -> Samples:
        """The same samples, their batches on a device."""
        return replace(self, device=device)

    def take(self, indices: Tensor | Sequence[int]) -> Samples:
        """Some of the samples, in the order of `indices`."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        labels = None if self.labels is None else self.labels[index]
        return replace(self, labels=labels, index=index if self.index is None else self.index[index])

    def head(self, count: int) -> Samples:
        """The first samples, at most `count`."""
        return self.take(range(min(count, len(self))))

    def answered(self, network: object) -> list[Tensor] | None:
        """What a network answers to these samples, an output tensor each, samples first; None where it is not known."""
        if self.answers is None or self.answers.network is not network:
            return None
        outputs = [kept.value for kept in self.answers.outputs]
        if self.index is None:
            return outputs
        return [output[self.index.to(output.device)] for output in outputs]

    # batches ----------------------------------------------------------------------------------------------------------

    def batches(self, size: int) -> Iterator[tuple[Tensor, ...]]:
        """Input tuples of at most `size` samples, or as many as are fixed, in the order of the model's inputs."""
        size = self.size(size)
        for start in range(0, len(self), size):
            yield self.at(start, size)

    def counts(self, size: int) -> Iterator[int]:
        """For each of `batches(size)` how many of its samples count; the rest fills it up."""
        size = self.size(size)
        return (min(size, len(self) - start) for start in range(0, len(self), size))

    def real(self, size: int) -> Iterator[Tensor | None]:
        """For each of `batches(size)` where tokens are real, bool (n, tokens), or None where nothing is padded."""
        size = self.size(size)
        for start in range(0, len(self), size):
            yield None if self.mask is None else self._there(self._part(self.mask, self._chosen(start, size)) != 0)

    def every_real(self) -> Tensor | None:
        """Where tokens of all samples are real, bool (n, tokens), or None where nothing is padded."""
        return None if self.mask is None else self._there(self._part(self.mask, slice(None)) != 0)

    def batch(self, size: int) -> tuple[Tensor, ...]:
        """The first `size` samples at once, fewer where there are no more, or as many as the program is fixed to."""
        return self.at(0, self.fixed or min(size, len(self)))

    def size(self, most: int) -> int:
        """Samples in a batch of at most `most`: as many as the program is fixed to, or as memory is meant for."""
        if self.fixed is not None:
            return self.fixed
        largest = max(self._elements(name) for name in self.stored)
        return self.room.bound(max(1, min(most, AT_ONCE // max(largest, 1))))

    def cut(self, value: Tensor, count: int) -> Tensor:
        """The rows of the samples that count, of a value of one batch whose first axis is that of samples."""
        if self.fixed is None or count == self.fixed or value.ndim == 0 or len(value) % self.fixed:
            return value
        return value[: count * (len(value) // self.fixed)]

    def _elements(self, name: str) -> int:
        """Elements of one sample."""
        array, rows = self.stored[name], self.feed(name).rows
        return array[:rows].numel() if rows else 0

    def at(self, start: int, size: int) -> tuple[Tensor, ...]:
        """The batch of `size` samples that begins with one of them."""
        chosen = self._chosen(start, size)
        return tuple(self._fed(name, chosen) for name in self.stored)

    def _chosen(self, start: int, size: int) -> slice | Tensor:
        """The samples of one batch; those of an incomplete one are repeated where the size is fixed."""
        end = min(start + size, len(self))
        if self.fixed is None or end - start == size:
            return slice(start, end)
        return start + torch.arange(size) % (end - start)

    def _fed(self, name: str, chosen: slice | Tensor) -> Tensor:
        part = self._there(self._part(name, chosen))
        return part[0] if self.feed(name).is_bare else part

    def _there(self, value: Tensor) -> Tensor:
        """A part of the data on the device. A GPU copies it on its own while the host makes the next one."""
        if self.device is None or value.device == self.device:
            return value
        if self.device.type != "cuda":
            return value.to(self.device)
        return value.pin_memory().to(self.device, non_blocking=True)

    def _part(self, name: str, chosen: slice | Tensor) -> Tensor:
        """The array of some samples in the dtype that the program reads."""
        array, feed = self.stored[name], self.feed(name)
        if feed.rows == 0:
            return array if feed.dtype is None else array.to(feed.dtype)
        if feed.rows > 1:
            array = array.reshape(-1, feed.rows, *array.shape[1:])
        part = array[chosen] if self.index is None else array[self.index[chosen]]
        if feed.rows > 1:
            part = part.flatten(0, 1)
        return part if feed.dtype is None else part.to(feed.dtype)
