"""Compute once what several nodes compute alike from the same values: common subexpressions.

    unsqueeze(mask, 1) in every block   ->   one unsqueeze that all blocks read

Terms that read one side input then read the same node, so that they can share a level's fusion.
Refused: random values, and values of different terms or of a term and what is outside of it, because a term whose
inner values something else reads cannot be moved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from passes.graph.equal_calls import key_of
from passes.graph.operators import is_random
from passes.runner import Pass, PassResult, Skip, Stage
from passes.stacks.find import find_stacks


@dataclass(frozen=True)
class MergeDuplicates(Pass):
    """Merge nodes that compute the same from the same values."""

    name: ClassVar[str] = "merge-duplicates"
    exact: ClassVar[bool] = True
    stage: ClassVar[Stage] = "clean"
    after: ClassVar[tuple[str, ...]] = ("merge-views",)

    def apply(self, module: fx.GraphModule) -> PassResult:
        """See the module's docstring."""
        owners = _owners(module)
        anywhere: dict[Any, fx.Node] = {}
        first: dict[Any, fx.Node] = {}
        matches, skipped = [], []
        for node in list(module.graph.nodes):
            if node.op != "call_function" or is_random(node):
                continue
            key = key_of(node.target, node.args, node.kwargs)
            other = anywhere.setdefault(key, node)
            original = first.setdefault((owners.get(node), key), node)
            if original is not node:
                node.replace_all_uses_with(original)
                module.graph.erase_node(node)
                matches.append(f"{node.name} is {original.name}")
            elif other is not node:
                skipped.append(Skip(node.name, f"{other.name} computes the same, but not in the same term"))
        return PassResult(tuple(matches), tuple(skipped))


def _owners(module: fx.GraphModule) -> dict[fx.Node, tuple[int, int]]:
    """The term that each node is inside of, by the numbers of its stack and of itself."""
    stacks = find_stacks(module).stacks
    return {
        node: (number, place)
        for number, stack in enumerate(stacks)
        for place, term in enumerate(stack.terms)
        for node in term.inner
    }
