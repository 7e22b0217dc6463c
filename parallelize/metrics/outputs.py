"""One output of a network on all samples, samples first, kept in the buffer of the job and read part by part."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from parallelize.data.buffer import Buffer, Kept

_PIECE = 2**22  # elements of what is kept together, which is read as a whole


class Outputs:
    """What a tensor of so many samples is asked for: its shape and dtype, and samples from one to another.

    Attributes:
        shape: of the whole.
        dtype: of its elements.
    """

    def __init__(self, count: int, like: Tensor, buffer: Buffer) -> None:
        """None yet of `count` samples; `like` is the output of some."""
        self.shape, self.dtype = torch.Size((count, *like.shape[1:])), like.dtype
        self._like, self._buffer = like[:0], buffer
        self._starts = [0]
        self._kept: list[Kept] = []

    def add(self, batch: Tensor) -> None:
        """The output of the next samples."""
        step = max(1, _PIECE // max(1, prod(self.shape[1:])))
        for start in range(0, len(batch), step):
            part = batch[start : start + step]
            self._kept.append(self._buffer.keep(part))
            self._starts.append(self._starts[-1] + len(part))

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, part: slice) -> Tensor:
        first, last, _ = part.indices(self._starts[-1])
        found = [
            kept.value[max(0, first - start) : last - start]
            for kept, start, stop in zip(self._kept, self._starts, self._starts[1:], strict=False)
            if first < stop and start < last
        ]
        return _joined(found) if found else self._like

    @property
    def ndim(self) -> int:
        """Axes, that of the samples among them."""
        return len(self.shape)

    def numel(self) -> int:
        """Elements of the whole."""
        return prod(self.shape)

    def is_floating_point(self) -> bool:
        """Whether its numbers are floating."""
        return self.dtype.is_floating_point

    def is_complex(self) -> bool:
        """Whether its numbers are complex."""
        return self.dtype.is_complex


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
