"""How N equal branches lie in one tensor.

Lifting turns corresponding values of N branches into one value:

    Shared   the branches agree; one tensor serves all
    Stored   N stored tensors (parameters), not yet in the graph
    Wide     the branches lie side by side in one dimension: a dimension of size outer * inner has become
             outer * N * inner, so that branch b of the original index (i, j) is at (i, b, j)
    Normed   a shared or wide value times a gain plus a shift, one pair for each branch, waiting to be folded
    Pieces   what `split` and the like make of a wide value
    Apart    N nodes, one of each branch, that an operator without a wide form makes

Branches that read one state lie side by side in its last dimension or in the channels: the in-projections are one
product. Branches with private states lie side by side in the first dimension (*in front*), as more samples: products
with parameters are batched there, and everything else treats them as samples.

`outer` decides where the branches go when a dimension is split later: the rows of a merged query-key-value projection
(3, heads, head) take N between 3 and heads (outer = 3), so that the split heads of all branches end up as N * heads
neighbours, as one attention with more heads wants them. It is an expression where heads and a dynamic batch are one
dimension for a while.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import sympy
import torch
from torch import Tensor, fx

from passes.graph.sizes import Size


@dataclass(frozen=True)
class Shared:
    """One node that serves all branches."""

    node: fx.Node


@dataclass(frozen=True)
class Stored:
    """The branches' own parameters."""

    tensors: tuple[Tensor, ...]


@dataclass(frozen=True)
class Wide:
    """All branches in one tensor.

    Attributes:
        node: the tensor, of as many dimensions as one branch's value.
        dim: the dimension that holds the branches, from the right (-1 is the last).
        outer: how much of that dimension lies before the branch index.
        shape: of one branch's value.
    """

    node: fx.Node
    dim: int
    outer: Size
    shape: tuple[Size, ...]

    @property
    def place(self) -> int:
        """`dim` from the left."""
        return len(self.shape) + self.dim

    @property
    def layout(self) -> tuple[int, Size]:
        """Where the branches lie."""
        return self.dim, self.outer


@dataclass(frozen=True)
class Normed:
    """`value * gain_b + shift_b` along the last dimension; a gain or shift of None is one or zero."""

    value: Shared | Wide
    gains: tuple[Tensor | None, ...]
    shifts: tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Pieces:
    """What `split`, `chunk` and `unbind` give: a node of several tensors that share one layout."""

    node: fx.Node
    dim: int
    outer: Size


@dataclass(frozen=True)
class Apart:
    """A node for each branch: of one tensor, or of several as those of Pieces."""

    nodes: tuple[fx.Node, ...]


Lifted = Shared | Normed | Stored | Wide | Pieces | Apart


class CannotLiftError(Exception):
    """A branch has something that cannot be made wide; the text names the node and the value."""


def interleave(tensors: Sequence[Tensor], dim: int, outer: int) -> Tensor:
    """Put N equal tensors side by side in `dim`: size outer * inner becomes outer * N * inner."""
    shape = tensors[0].shape
    place = dim % len(shape)
    ahead, behind = shape[:place], shape[place + 1 :]
    split = [tensor.reshape(*ahead, outer, shape[place] // outer, *behind) for tensor in tensors]
    return torch.stack(split, place + 1).reshape(*ahead, len(tensors) * shape[place], *behind)


def through_view(before: Sequence[Size], after: Sequence[Size], dim: int, outer: Size) -> tuple[int, Size] | None:
    """Where a wide dimension goes when the single branch's tensor is viewed in another shape.

    Args:
        before: shape of one branch's value before the view.
        after: its shape after the view.
        dim: the wide dimension before the view, counted from the right.
        outer: how much of it lies before the branch index.

    Returns:
        The dimension (from the right) and the outer size after the view, or None where the branch index would end up
        inside a dimension that the view does not cut there.
    """
    ahead = math.prod(before[: len(before) + dim], start=sympy.Integer(1)) * outer
    found: tuple[int, Size] | None = None
    for place, size in enumerate(after):
        ratio = sympy.cancel(ahead / math.prod(after[:place], start=sympy.Integer(1)))
        if ratio == 1 and size != 1:
            return place - len(after), 1
        if ratio == 1:
            found = (place - len(after), 1)
        elif sympy.fraction(ratio)[1] == 1:
            inner = sympy.cancel(size / ratio)
            if inner.is_Integer and inner > 1:
                found = (place - len(after), int(ratio) if ratio.is_Integer else ratio)
    return found
