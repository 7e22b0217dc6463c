"""What a network returns for all samples of a file, collected batch by batch and written under the outputs' names.

The axis of the samples is where the network has it; outputs without one, such as a table of positions, are kept once.
What is collected lies in the buffer of the job, so it may be more than memory holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from parallelize.data import Samples
from parallelize.data.npz_file import Parts, write_npz
from parallelize.data.tensor_spec import TensorSpec
from parallelize.metrics.outputs import Outputs
from parallelize.models.answers import samples_first
from passes.errors import ParallelizeError

_PIECE = 256  # samples that are written at a time


class SampleOutputs:
    """One output on all samples.

    Attributes:
        name: of the output.
        outputs: samples first; None before the first batch, and for an output without samples.
    """

    def __init__(self, spec: TensorSpec, inputs: Sequence[TensorSpec], samples: Samples) -> None:
        self.name = spec.name
        self.outputs: Outputs | None = None
        self._samples = samples
        self._is_bare = any(samples.feed(name).is_bare for name in samples.stored)
        self._axis = 0 if self._is_bare else sample_axis(spec, inputs, samples)
        self._whole: Tensor | None = None
        self._rows = 1

    def add(self, value: Tensor, size: int, count: int) -> None:
        """The output of a batch of `size` samples, of which the first `count` count.

        Raises:
            ParallelizeError: its shape differs from that of the batch before.
        """
        if self._axis is None:
            self._keep_whole(value)
            return
        (found,) = samples_first([value[None] if self._is_bare else value], size, [self._axis])
        if self.outputs is None:
            self._rows = value.shape[self._axis] // size if value.ndim and not self._is_bare else 1
            self.outputs = Outputs(len(self._samples), found, self._samples.buffer)
        if found.shape[1:] != self.outputs.shape[1:]:
            raise self._differs(found.shape[1:], self.outputs.shape[1:])
        self.outputs.add(found[:count])

    def _keep_whole(self, value: Tensor) -> None:
        if self._whole is not None and not torch.equal(value, self._whole):
            raise ParallelizeError(
                f"The output {self.name!r} has no axis of samples, but differs between batches.",
                f"Run all {len(self._samples)} samples at once with --batch {len(self._samples)}.",
            )
        self._whole = value

    def _differs(self, found: Sequence[int], known: Sequence[int]) -> ParallelizeError:
        sizes = " and ".join("x".join(map(str, shape)) or "()" for shape in (known, found))
        return ParallelizeError(
            f"The output {self.name!r} has samples of the sizes {sizes}.", "Run with --batch as many as there are."
        )

    def parts(self) -> Parts:
        """As it is written: in the layout of the network."""
        if self.outputs is None:
            assert self._whole is not None
            return Parts(self._whole.shape, self._whole.dtype, [self._whole])
        shape = list(self.outputs.shape)
        if self._rows > 1:
            shape[:2] = [shape[0] * shape[1]]
        if not self._axis:
            return Parts(shape, self.outputs.dtype, self._pieces())
        whole = torch.cat(list(self._pieces())).movedim(0, self._axis)
        return Parts(whole.shape, whole.dtype, [whole])

    def _pieces(self) -> Iterator[Tensor]:
        assert self.outputs is not None
        for start in range(0, len(self.outputs), _PIECE):
            part = self.outputs[start : start + _PIECE]
            yield part.flatten(0, 1) if self._rows > 1 else part


def sample_axis(spec: TensorSpec, inputs: Sequence[TensorSpec], samples: Samples) -> int | None:
    """The axis of an output on which its samples are; None where it has none."""
    if samples.fixed is not None:
        return 0 if spec.shape and isinstance(spec.shape[0], int) and spec.shape[0] % samples.fixed == 0 else None
    free = {each.shape[0] for each in inputs if each.shape and isinstance(each.shape[0], str)}
    symbols = set().union(*(_symbols(size) for size in free))
    if not symbols:
        return 0
    return next((axis for axis, size in enumerate(spec.shape) if _symbols(size) & symbols), None)


def _symbols(size: int | str) -> set[str]:
    """The names of free dimensions in a size, such as batch in 2*batch."""
    return set(re.findall(r"[A-Za-z_]\w*\b(?!\()", size)) if isinstance(size, str) else set()


def write_outputs(outputs: Sequence[SampleOutputs], path: Path) -> None:
    """Write an .npz of outputs by their names."""
    write_npz(path, {output.name: output.parts() for output in outputs})
