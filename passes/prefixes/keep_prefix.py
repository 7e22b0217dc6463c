"""Keep the first branches of the last level: the network of a prefix.

    y = x + f_1(x) + .. + f_N(x)    ->    y_k = x + f_1(x) + .. + f_k(x)

What a prefix adds up is said in passes/prefixes/level.py. What a branch that goes computed for other readers, such as a
state that is returned, stays; so does everything before and after the level. Where it is known how, what the others add
is foretold from the state (passes/prefixes/rest.py).

Refused: a graph without such a level, and a number that it has no prefix of. The prefix of all branches is the graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from passes.graph import operators as ops
from passes.graph.editing import restore_order
from passes.graph.weighted_sum import weighted_sum
from passes.prefixes.level import last_level
from passes.prefixes.rest import Rest, foretold
from passes.runner import Pass, PassResult, Stage


@dataclass(frozen=True, eq=False)
class KeepPrefix(Pass):
    """Keep the first `branches` branches of the last level.

    Attributes:
        branches: how many, 1 or more.
        rest: foretells what the others add; None leaves that out.
    """

    branches: int
    rest: Rest | None = None
    name: ClassVar[str] = "keep-prefix"
    exact: ClassVar[bool] = False
    stage: ClassVar[Stage] = "schedule"
    after: ClassVar[tuple[str, ...]] = ("apply-plan",)

    def apply(self, module: fx.GraphModule) -> PassResult:
        """See the module's docstring."""
        level = last_level(module)
        level.require([self.branches])
        if self.branches == level.count:
            return PassResult()
        kept = [(node, level.kept_factor(node, self.branches)) for node in level.kept]
        outputs = [output for branch in level.branches[: self.branches] for output in branch]
        terms = [*kept, *((output, level.factor(output, self.branches)) for output in outputs)]
        with module.graph.inserting_before(level.root):
            total = weighted_sum(module, terms)
        if self.rest is not None:
            missing = foretold(module, level, self.rest, (self.branches,), level.root)
            with module.graph.inserting_before(level.root):
                total = module.graph.call_function(ops.ADD, (total, missing))
        total.meta.update(level.root.meta)
        level.root.replace_all_uses_with(total)
        restore_order(module)
        return PassResult((f"{level.root.name}: {self.branches} of {level.count} branches",))
