"""What a network answers to samples: its output tensors, samples first.

The teacher runs over all samples before anything else does, so that NaN is refused. What comes out of this pass is kept
with the samples where it is a small part of what may be held, and whoever asks for the teacher's outputs on any of them
later, such as a judge, has them without running it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from parallelize.data import Samples
from parallelize.data.known_answers import KnownAnswers
from parallelize.data.padding import output_nodes
from passes.errors import ParallelizeError

SMALL = 1 / 8  # of what may be held


class Answering:
    """Collects a network's outputs on all of some samples, batch by batch, as long as they are small."""

    def __init__(self, network: fx.GraphModule, samples: Samples) -> None:
        self.network, self.samples = network, samples
        self._axes = sample_axes(network)
        self._parts: list[list[Tensor]] | None = [] if samples.index is None else None

    def take(self, outputs: Sequence[Tensor], size: int, count: int) -> None:
        """The outputs of the next batch of `size` samples, of which the first `count` count."""
        if self._parts is None:
            return
        try:
            part = [output[:count] for output in samples_first(outputs, size, self._axes)]
        except ParallelizeError:  # who needs the outputs will say what is wrong with them
            self._parts = None
            return
        bytes_in_all = sum(output[0].nbytes for output in part) * len(self.samples)
        known = self._parts[-1] if self._parts else part
        alike = [output.shape[1:] for output in part] == [output.shape[1:] for output in known]
        fits = bytes_in_all <= SMALL * self.samples.buffer.bound
        if alike and fits:
            self._parts.append(part)
        else:
            self._parts = None

    def answered(self) -> Samples:
        """The samples, with what was collected."""
        if not self._parts:
            return self.samples
        outputs = [torch.cat(parts) for parts in zip(*self._parts, strict=True)]
        kept = tuple(map(self.samples.buffer.keep, outputs))
        return replace(self.samples, answers=KnownAnswers(self.network, kept))


def samples_first(outputs: Sequence[Tensor], count: int, axes: Sequence[int] = ()) -> list[Tensor]:
    """Outputs with a first axis of `count` samples; (samples * rows, ...) becomes (samples, rows, ...).

    Args:
        outputs: of one batch.
        count: of its samples.
        axes: for each output where its samples are, where that is not the first axis in all of them.

    Raises:
        ParallelizeError: an output without an axis of samples.
    """
    places = axes if len(axes) == len(outputs) else [0] * len(outputs)
    moved = [o.movedim(place, 0) if place < o.ndim else o for o, place in zip(outputs, places, strict=True)]
    if count == 1:  # a single number is one sample's
        moved = [output if output.ndim else output[None] for output in moved]
    for output in moved:
        if output.ndim == 0 or len(output) == 0 or len(output) % count:
            raise no_samples(output, count)
    return [o if len(o) == count else o.reshape(count, len(o) // count, *o.shape[1:]) for o in moved]


def sample_axes(module: fx.GraphModule) -> list[int]:
    """For each output tensor the axis of its samples: the first whose size depends on the free size of the batch.

    It is axis 0 where no such size is known.
    """
    sizes: list[Any] = [
        value.shape[0] for node in module.graph.find_nodes(op="placeholder") if (value := shaped(node)).ndim
    ]
    batch = next((size.node.expr for size in sizes if isinstance(size, torch.SymInt)), None)
    symbols = set() if batch is None else batch.free_symbols
    return [_first_axis(shaped(node).shape, symbols) for node in output_nodes(module)]


def shaped(node: fx.Node) -> Tensor:
    """The value of a node as far as the graph knows it; a single number where it does not."""
    value = node.meta.get("val")
    return value if isinstance(value, Tensor) else torch.empty(())


def _first_axis(shape: Sequence[Any], symbols: set[object]) -> int:
    expressions = {axis: size.node.expr for axis, size in enumerate(shape) if isinstance(size, torch.SymInt)}
    return next((axis for axis, expression in expressions.items() if expression.free_symbols & symbols), 0)


def no_samples(output: Tensor, count: int) -> ParallelizeError:
    """What is wrong with an output of so many samples whose first axis is another one."""
    shape = "x".join(map(str, output.shape)) or "()"
    return ParallelizeError(
        f"An output has the shape {shape} for {count} samples: its first axis is not that of the samples.",
        "Let the model return only tensors whose first axis is the batch.",
    )
