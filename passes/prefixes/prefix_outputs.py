"""Return what the network says after each prefix of its last level, all in one run.

    c = [f_1(x); ..; f_N(x)]    s = running sums of c    [y_1; ..; y_N] = x + s    outputs: head(y_k) for each k

The branches run once. Their values are stacked, so that width fusion makes one of them, and so are what the copies of
the rest of the network end in, which read one state each: a rest that treats every sample by itself becomes one on more
samples, with the weights of one (passes/fusion/rules/tied.py), and any other runs once for each prefix.

An output that depends on the level is returned for each prefix, in the order of the prefixes; any other one once, in
its place. All are returned in a dictionary, by their names with `_prefix_K` behind.

Refused: a graph without such a level, and numbers that it has no prefixes of. What was rewritten has no such level any
more.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from passes.errors import ParallelizeError
from passes.graph import operators as ops
from passes.graph.dataflow import tensor_value
from passes.graph.editing import restore_order
from passes.graph.operators import aten
from passes.graph.outputs import flat_leaves
from passes.graph.parameters import store_parameter
from passes.graph.weighted_sum import weighted_sum
from passes.prefixes.level import WideLevel, last_level
from passes.prefixes.rest import Rest, foretold
from passes.runner import Pass, PassResult, Stage

_DONE = "prefix_outputs"  # in the `meta` of a graph that has them


@dataclass(frozen=True, eq=False)
class PrefixOutputs(Pass):
    """Return the outputs of every prefix of the last level.

    Attributes:
        prefixes: numbers of branches, rising.
        names: of the graph's outputs, in their order.
        rest: foretells what the branches behind a prefix add; None leaves that out.
    """

    prefixes: tuple[int, ...]
    names: tuple[str, ...]
    rest: Rest | None = None
    name: ClassVar[str] = "prefix-outputs"
    exact: ClassVar[bool] = False
    stage: ClassVar[Stage] = "schedule"
    after: ClassVar[tuple[str, ...]] = ("apply-plan", "keep-prefix")

    def apply(self, module: fx.GraphModule) -> PassResult:
        """See the module's docstring."""
        if _DONE in module.meta:
            raise ParallelizeError(
                "The network returns the outputs of its prefixes already.", "Name the model that it was made of."
            )
        level = last_level(module)
        level.require(self.prefixes)
        (end,) = module.graph.find_nodes(op="output")
        leaves = flat_leaves(module)
        behind = _behind(level.root)
        with module.graph.inserting_before(end):
            states = self._foretelling(module, level, _states(module, level, self.prefixes), end)
            copies = [_copied(module, behind, level.root, state) for state in _pieces(module, states, self.prefixes)]
            returned: dict[str, fx.Node] = {}
            for name, leaf in zip(self.names, leaves, strict=True):
                if leaf is not level.root and leaf not in behind:
                    returned[name] = leaf
                    continue
                ends = module.graph.call_function(aten.stack.default, ([copy[leaf] for copy in copies], 0))
                pieces = _pieces(module, ends, self.prefixes)
                returned |= dict(zip(self._named(name), pieces, strict=True))
        end.args = (returned,)
        restore_order(module)
        module.meta[_DONE] = self.prefixes
        return PassResult((f"{level.root.name}: outputs of {len(self.prefixes)} prefixes of {level.count} branches",))

    def _foretelling(self, module: fx.GraphModule, level: WideLevel, states: fx.Node, end: fx.Node) -> fx.Node:
        """The states with what is foretold for each; the last one of all branches lacks nothing."""
        if self.rest is None:
            return states
        missing = foretold(module, level, self.rest, self.prefixes, end)
        return module.graph.call_function(ops.ADD, (states, missing))

    def _named(self, output: str) -> list[str]:
        return [prefix_name(output, count) for count in self.prefixes]


def prefix_name(output: str, branches: int) -> str:
    """What an output of a prefix is called."""
    return f"{output}_prefix_{branches}"


def returns_of(module: fx.GraphModule) -> tuple[bool, ...]:
    """For each output of a graph whether it depends on the last level, so that every prefix has its own.

    Raises:
        ParallelizeError: there is no such level.
    """
    root = last_level(module).root
    behind = {root, *_behind(root)}
    return tuple(leaf in behind for leaf in flat_leaves(module))


def _behind(root: fx.Node) -> list[fx.Node]:
    """Everything that is computed of the sum, in the order of execution."""
    found = {root}
    for node in root.graph.nodes:
        if node.op == "call_function" and not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return [node for node in root.graph.nodes if node in found and node is not root]


def _states(module: fx.GraphModule, level: WideLevel, prefixes: Sequence[int]) -> fx.Node:
    """What the prefixes add up, stacked in front."""
    call, most = module.graph.call_function, max(prefixes)
    own = [weighted_sum(module, [(end, _own_factor(level, end)) for end in branch]) for branch in level.branches[:most]]
    sums = call(aten.cumsum.default, (call(aten.stack.default, (own, 0)), 0))
    if tuple(prefixes) != tuple(range(1, most + 1)):
        place = _stored(module, level, torch.tensor([count - 1 for count in prefixes]))
        sums = call(aten.index_select.default, (sums, 0, place))
    if level.is_mean:
        sums = call(aten.mul.Tensor, (sums, _column(module, level, [1 / count for count in prefixes])))
    for node in level.kept:
        factors = [level.kept_factor(node, count) for count in prefixes]
        value = node
        if len(set(factors)) > 1:
            value = call(aten.mul.Tensor, (node, _column(module, level, factors)))
        elif factors[0] != 1:
            value = call(aten.mul.Tensor, (node, factors[0]))
        sums = call(ops.ADD, (value, sums))
    return sums


def _own_factor(level: WideLevel, output: fx.Node) -> float:
    return 1.0 if level.is_mean else level.factors[output]


def _column(module: fx.GraphModule, level: WideLevel, numbers: Sequence[float]) -> fx.Node:
    """A number for each prefix, of as many dimensions as their stacked states have."""
    value = tensor_value(level.root)
    assert value is not None
    return _stored(module, level, torch.tensor(numbers, dtype=value.dtype).view(-1, *[1] * value.ndim))


def _stored(module: fx.GraphModule, level: WideLevel, value: Tensor) -> fx.Node:
    """A constant on the device of the level."""
    root = tensor_value(level.root)
    assert root is not None
    (end,) = module.graph.find_nodes(op="output")
    return store_parameter(module, "prefix_numbers", value.to(root.device), end, learned=False)


def _pieces(module: fx.GraphModule, stacked: fx.Node, prefixes: Sequence[int]) -> list[fx.Node]:
    call = module.graph.call_function
    several = call(aten.unbind.int, (stacked, 0))
    return [call(operator.getitem, (several, place)) for place in range(len(prefixes))]


def _copied(module: fx.GraphModule, nodes: Sequence[fx.Node], root: fx.Node, state: fx.Node) -> dict[fx.Node, fx.Node]:
    """The rest of the network behind a state of its own, by the node that was copied."""
    copies: dict[Any, fx.Node] = {root: state}
    for node in nodes:
        copies[node] = module.graph.node_copy(node, lambda source: copies.get(source, source))
    return copies
