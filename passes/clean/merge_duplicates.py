"""Compute once what several nodes compute alike from the same values: common subexpressions.

    unsqueeze(mask, 1) in every block   ->   one unsqueeze that all blocks read

Terms that read one side input then read the same node, so that they can share a level's fusion. Left alone are random
values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from passes.graph.equal_calls import key_of
from passes.graph.operators import is_random
from passes.runner import Pass, PassResult, Stage


@dataclass(frozen=True)
class MergeDuplicates(Pass):
    """Merge nodes that compute the same from the same values."""

    name: ClassVar[str] = "merge-duplicates"
    exact: ClassVar[bool] = True
    stage: ClassVar[Stage] = "clean"
    after: ClassVar[tuple[str, ...]] = ("merge-views",)

    def apply(self, module: fx.GraphModule) -> PassResult:
        """See the module's docstring."""
        first: dict[Any, fx.Node] = {}
        matches = []
        for node in list(module.graph.nodes):
            if node.op != "call_function" or is_random(node):
                continue
            original = first.setdefault(key_of(node.target, node.args, node.kwargs), node)
            if original is not node:
                node.replace_all_uses_with(original)
                module.graph.erase_node(node)
                matches.append(f"{node.name} is {original.name}")
        return PassResult(tuple(matches))
