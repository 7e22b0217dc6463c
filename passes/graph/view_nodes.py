"""Views and permutations as nodes, sizes that are known only when the model runs among their arguments.

A free size that follows from the others is -1. Where several are free, a view that only splits or only joins
neighbouring dimensions names no others; else the sizes are read by operators that read them already, or from an input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import fx

from passes.graph import operators as ops
from passes.graph.dataflow import tensor_value
from passes.graph.rearrangement import Permute, Step, View
from passes.graph.replacing import Replacing
from passes.graph.sizes import Size, sizes

aten = ops.aten


@dataclass
class Emitted:
    """Operators that were inserted one after another.

    Attributes:
        place: where they go.
        node: the last of them, or one that was there and computes the same.
        created: those that are new, reads of sizes included.
        reads: how many sizes had to be read for them.
    """

    place: Replacing
    node: fx.Node
    created: list[fx.Node] = field(default_factory=list)
    reads: int = 0

    @classmethod
    def after(cls, place: Replacing, source: fx.Node, steps: Sequence[Step]) -> Emitted | None:
        """Insert the operators that take `source` through `steps`; None where a size of theirs cannot be read."""
        emitted = cls(place, source)
        for step in steps:
            call = _permutation(step.order) if isinstance(step, Permute) else emitted._view(step)
            if call is None:
                emitted.abandon()
                return None
            emitted._add(*call)
        return emitted

    def abandon(self) -> None:
        """Take out what is new."""
        for node in reversed(self.created):
            node.graph.erase_node(node)
        self.created.clear()

    def _add(self, target: Any, *args: Any) -> None:
        known = _same(self.place, self.node, target, args)
        if known is None:
            known = self.place.emit(target, self.node, *args)
            self.created.append(known)
        self.node = known

    def _view(self, view: View) -> tuple[Any, ...] | None:
        """The operator that views the node so, with its arguments."""
        before, after = sizes_of(self.node), view.shape
        if _free(after) < 2:
            return aten.reshape.default, _numbers(after)
        ahead = _alike(before, after)
        behind = _alike(before[ahead:][::-1], after[ahead:][::-1])
        old, new = before[ahead : len(before) - behind], after[ahead : len(after) - behind]
        if len(new) == 1 and len(old) > 1:
            return aten.flatten.using_ints, ahead, ahead + len(old) - 1
        if len(old) == 1 and len(new) > 1 and _free(new) < 2:
            return aten.unflatten.int, ahead, _numbers(new)
        if not old and new == (1,):
            return aten.unsqueeze.default, ahead
        if not new and old == (1,):
            return aten.squeeze.dim, ahead
        arguments = self._arguments(after)
        return None if None in arguments else (aten.reshape.default, arguments)

    def _arguments(self, shape: Sequence[Size]) -> list[int | fx.Node | None]:
        """Sizes as arguments: -1 for the one that is most work to read, None for one that cannot be read."""
        free = [place for place, size in enumerate(shape) if not isinstance(size, int)]
        left_out = max(free, key=lambda place: (not shape[place].is_Symbol, place))  # type: ignore[union-attr]
        return [-1 if place == left_out else self._read(size) for place, size in enumerate(shape)]

    def _read(self, size: Size) -> int | fx.Node | None:
        if isinstance(size, int):
            return size
        graph = self.place.module.graph
        for node in graph.nodes:
            value = node.meta.get("val")
            if isinstance(value, torch.SymInt) and expression(value) == size and node < self.place.node:
                return cast("fx.Node", node)
        for source in (*graph.find_nodes(op="placeholder"), self.node):
            dims = sizes_of(source) if tensor_value(source) is not None else ()
            if size in dims:
                read = self.place.emit(aten.sym_size.int, source, dims.index(size))
                self.created.append(read)
                self.reads += 1
                return read
        return None


def _free(shape: Sequence[Size]) -> int:
    """How many sizes are known only when the model runs."""
    return sum(not isinstance(size, int) for size in shape)


def _numbers(shape: Sequence[Size]) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in shape]


def sizes_of(node: fx.Node) -> tuple[Size, ...]:
    """The sizes of a node's tensor."""
    value = tensor_value(node)
    assert value is not None
    return sizes(value)


def expression(size: int | torch.SymInt) -> Size:
    """A size or stride as a number, or the expression behind it."""
    return size if isinstance(size, int) else cast("Size", size.node.expr)


def lies_alike(node: fx.Node, other: fx.Node) -> bool:
    """Whether two tensors have one shape and lie alike in memory, free sizes compared as expressions."""
    ours, theirs = tensor_value(node), tensor_value(other)
    if ours is None or theirs is None or sizes(ours) != sizes(theirs):
        return False
    strides = zip(sizes(ours), ours.stride(), theirs.stride(), strict=True)
    return all(size == 1 or str(left) == str(right) for size, left, right in strides)


def _permutation(order: Sequence[int]) -> tuple[Any, ...]:
    moved = [dim for dim, place in enumerate(order) if dim != place]
    if len(moved) == 2:
        return (aten.transpose.int, *moved)
    return aten.permute.default, list(order)


def _same(place: Replacing, source: fx.Node, target: Any, args: Sequence[Any]) -> fx.Node | None:
    """A node ahead of the place that computes the same."""
    for user in source.users:
        if user.target == target and list(user.args[1:]) == list(args) and not user.kwargs and user < place.node:
            return user
    return None


def _alike(left: Sequence[Size], right: Sequence[Size]) -> int:
    """How many sizes are equal from the beginning."""
    count = 0
    for ours, theirs in zip(left, right, strict=False):
        if ours != theirs:
            return count
        count += 1
    return count
