"""Where padding lies in a value of the network: one rule for outputs, states and features.

The mask of padding is an input (samples, tokens) that is 0 where a token is none. Free dimensions are told apart by
their symbols, so that a size which only happens to be the same is no axis of tokens. A value has

    1. samples and tokens on axes of their own, in any order: (samples, tokens, ...), (tokens, samples, ...),
       (samples, channels, tokens), (samples, heads, tokens, tokens), where the first axis of tokens is meant;
    2. both on one axis, the tokens of a sample side by side: (samples * tokens, ...);
    3. where the tokens are fixed to a number: samples and tokens as its first two axes, and another axis behind them,
       because two alone may as well be samples and classes.

Everything else, such as a pooled output, has no padding: all of it counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from parallelize.data import Samples
from passes.graph.dataflow import tensor_value
from passes.graph.outputs import flat_leaves

Size = int | torch.SymInt


@dataclass(frozen=True)
class Layout:
    """The axes of samples and tokens of a value; one and the same where they are folded into it."""

    samples: int
    tokens: int

    def real(self, mask: Tensor, axes: int) -> Tensor:
        """Where a value of so many axes is real, bool of as many axes, 1 along all but samples and tokens.

        Args:
            mask: (samples, tokens), 0 at padding.
            axes: of the value.
        """
        mask = mask != 0
        shape = [1] * axes
        if self.samples == self.tokens:
            shape[self.samples] = mask.numel()
            return mask.reshape(shape)
        shape[self.samples], shape[self.tokens] = mask.shape
        return (mask if self.samples < self.tokens else mask.T).reshape(shape)

    def rows(self, value: Tensor, mask: Tensor) -> Tensor:
        """The real part of a value (..., features) as (rows, features); one of two axes has one feature."""
        features = value.shape[-1] if value.ndim > 2 or self.samples == self.tokens else 1
        if self.samples == self.tokens:
            return value.movedim(self.samples, 0)[mask.flatten() != 0].reshape(-1, features)
        return value.movedim((self.samples, self.tokens), (0, 1))[mask != 0].reshape(-1, features)


def layout(shape: Sequence[Size], mask: Sequence[Size]) -> Layout | None:
    """Where a value of this shape has the samples and tokens of the mask, None where it has none of its padding."""
    samples, tokens = mask
    is_free = isinstance(tokens, torch.SymInt)
    if len(shape) > 1 and _same(shape[0], samples * tokens) and (is_free or len(shape) == 2):
        return Layout(0, 0)
    first = next((axis for axis, size in enumerate(shape) if _same(size, samples)), None)
    second = next((axis for axis, size in enumerate(shape) if axis != first and _same(size, tokens)), None)
    if first is None or second is None:
        return None
    if is_free or (len(shape) > 2 and {first, second} == {0, 1}):
        return Layout(first, second)
    return None


def layouts(module: fx.GraphModule, samples: Samples, values: Sequence[fx.Node] | None = None) -> list[Layout | None]:
    """Where padding lies in values of a graph, by default in its output tensors.

    Args:
        module: a captured graph whose inputs are the arrays of `samples` in their order.
        samples: tell which input is the mask.
        values: nodes that compute tensors.
    """
    nodes = output_nodes(module) if values is None else values
    mask = mask_input(module, samples)
    like = None if mask is None else tensor_value(mask)
    shapes = [None if (value := tensor_value(node)) is None else value.shape for node in nodes]
    return [None if like is None or shape is None else layout(shape, like.shape) for shape in shapes]


def output_nodes(module: fx.GraphModule) -> list[fx.Node]:
    """The nodes of the graph's output that are tensors, flattened; all of them where no values are known."""
    leaves = flat_leaves(module)
    return [leaf for leaf in leaves if "val" not in leaf.meta or tensor_value(leaf) is not None]


def mask_input(module: fx.GraphModule, samples: Samples) -> fx.Node | None:
    """The input that is 0 at padding."""
    place = mask_position(samples)
    return None if place is None else module.graph.find_nodes(op="placeholder")[place]


def mask_position(samples: Samples) -> int | None:
    """Its place among the inputs."""
    return None if samples.mask is None else list(samples.stored).index(samples.mask)


def real_parts(
    found: Sequence[Layout | None], outputs: Sequence[Tensor], inputs: Sequence[Tensor], place: int | None
) -> list[Tensor | None]:
    """For each output of one batch where it is real, bool that spreads over it; None where all of it counts.

    Args:
        found: as `layouts` gave them.
        outputs: of the batch.
        inputs: the batch.
        place: of the mask among the inputs.
    """
    if place is None:
        return [None] * len(outputs)
    mask = inputs[place]
    return [None if at is None else at.real(mask, value.ndim) for at, value in zip(found, outputs, strict=True)]


def real_outputs(
    module: fx.GraphModule, samples: Samples, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> list[Tensor | None]:
    """For each output that a graph made of a batch of samples where it is real; None where all of it counts."""
    return real_parts(layouts(module, samples), outputs, inputs, mask_position(samples))


def _same(left: Size, right: Size) -> bool:
    """By expression, so that no guard is added to the graph's symbols."""
    return str(left) == str(right)
