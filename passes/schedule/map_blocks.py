"""Replace ranges of blocks by linear maps of the state.

    h = block_j(... block_i(x))  ->  h = A x + b

The map acts along the axis of the state that holds its channels. What a range computed for readers outside of it stays;
everything that read the state behind the range reads the map. Ranges of a stack are disjoint; where one begins at the
end of another it maps what that one returns.
Refused: a stack or a block that the model does not have, and ranges that overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, fx
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.errors import ParallelizeError
from passes.graph import operators as ops
from passes.graph.editing import restore_order
from passes.graph.operators import aten
from passes.graph.parameters import add_parameter
from passes.runner import Pass, PassResult, Stage
from passes.stacks.find import Stack, find_stacks


@dataclass(frozen=True, eq=False)
class LinearMap:
    """y = A x + b along one axis.

    Attributes:
        weight: A (d, d), float64.
        bias: b (d,), float64.
        axis: the axis of the state that holds the d channels, 1 or -1.
    """

    weight: Tensor
    bias: Tensor
    axis: int

    def __call__(self, state: Tensor) -> Tensor:
        """The map of a state, in the state's dtype."""
        weight, bias = self.weight.to(state.dtype), self.bias.to(state.dtype)
        return F.linear(state.movedim(self.axis, -1), weight, bias).movedim(-1, self.axis)


@dataclass(frozen=True, eq=False)
class MappedRange:
    """A range of blocks, the first and the last one, and what stands for it.

    Attributes:
        stack: number of the stack in the model.
        first: first block of the range.
        last: last block of the range.
        map: the new state of the one before the range.
    """

    stack: int
    first: int
    last: int
    map: LinearMap


@dataclass(frozen=True, eq=False)
class MapBlocks(Pass):
    """Replace ranges of blocks by linear maps of the state."""

    maps: tuple[MappedRange, ...]
    name: ClassVar[str] = "map-blocks"
    exact: ClassVar[bool] = False
    stage: ClassVar[Stage] = "schedule"
    after: ClassVar[tuple[str, ...]] = ("apply-plan",)

    def apply(self, module: fx.GraphModule) -> PassResult:
        """See the module's docstring."""
        stacks = find_stacks(module).stacks
        _check(self.maps, stacks)
        exits: dict[fx.Node, fx.Node] = {}  # the state behind a range -> its map
        for found in sorted(self.maps, key=lambda found: (found.stack, found.first)):
            entry, result = range_ends(stacks[found.stack], found.first, found.last)
            exits[result] = _place(module, exits.get(entry, entry), result, found.map)
        restore_order(module)
        return PassResult(tuple(f"{stacks[m.stack].name}: blocks {m.first} to {m.last}" for m in self.maps))


def range_ends(stack: Stack, first: int, last: int) -> tuple[fx.Node, fx.Node]:
    """The state before a range of blocks and the one behind it."""
    return stack.terms[stack.blocks[first][0]].skip, stack.terms[stack.blocks[last][-1]].result


def _check(maps: Sequence[MappedRange], stacks: Sequence[Stack]) -> None:
    taken: set[tuple[int, int]] = set()
    for found in maps:
        count = len(stacks[found.stack].blocks) if 0 <= found.stack < len(stacks) else 0
        if not 0 <= found.first <= found.last < count:
            raise ParallelizeError(
                f"Stack {found.stack} of the model has no blocks {found.first} to {found.last}.",
                "See `parallelize inspect MODEL` for its stacks and blocks.",
            )
        blocks = {(found.stack, block) for block in range(found.first, found.last + 1)}
        if taken & blocks:
            raise ParallelizeError(
                f"Block {min(taken & blocks)[1]} of stack {found.stack} is in two ranges.", "Make them disjoint."
            )
        taken |= blocks


def _place(module: fx.GraphModule, entry: fx.Node, result: fx.Node, found: LinearMap) -> fx.Node:
    """Let everything behind a range read the map of the state before it; returns the new state."""
    users, after, dtype = list(result.users), result.next, result.meta["val"].dtype
    weight = add_parameter(module, "map_weight", found.weight.to(dtype), after)
    bias = add_parameter(module, "map_bias", found.bias.to(dtype), after)
    call = module.graph.call_function
    with module.graph.inserting_before(after):
        rows = entry if found.axis == -1 else call(aten.transpose.int, (entry, found.axis, -1))
        mapped = call(ops.LINEAR, (rows, weight, bias))
        state = mapped if found.axis == -1 else call(aten.transpose.int, (mapped, found.axis, -1))
    for user in users:
        user.replace_input_with(result, state)
    return state
