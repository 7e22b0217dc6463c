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
        first: dict[Any, list[fx.Node]] = {}
        owners: dict[fx.Node, tuple[int, int]] | None = None
        matches, skipped = [], []
        for node in list(module.graph.nodes):
            if node.op != "call_function" or is_random(node):
                continue
            alike = first.setdefault(key_of(node.target, node.args, node.kwargs), [])
            if alike and owners is None:
                owners = _owners(module)
            original = next(
                (other for other in alike if owners is not None and owners.get(other) == owners.get(node)), None
            )
            if original is not None:
                node.replace_all_uses_with(original)
                module.graph.erase_node(node)
                matches.append(f"{node.name} is {original.name}")
                continue
            if alike:
                skipped.append(Skip(node.name, f"{alike[0].name} computes the same, but not in the same term"))
            alike.append(node)
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
