"""Write every term of a residual stack as add(x, contribution).

    x - f  ->  x + (-f)        0.9 x + f  ->  x + (f - 0.1 x)        lerp(x, f, w)  ->  x + (w f - w x)

`passes.stacks.spelled_adds` and `passes.stacks.summands` list the spellings. Only sums of a chain of two terms or more
are rewritten: elsewhere nothing would run beside them. Signs and scales go into the weights at fusion.

Refused, each with its reason: a sum that is no term of a stack, or the only one on its state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from passes.graph import operators as ops
from passes.graph.dataflow import same_shape, tensor_value
from passes.graph.shapes import complete_shapes
from passes.runner import Pass, PassResult, Skip, Stage
from passes.stacks.chains import find_chains
from passes.stacks.residual_adds import ResidualAdd
from passes.stacks.summands import Call, Factor, Summand

aten = ops.aten


@dataclass(frozen=True)
class NormalizeAdds(Pass):
    """Write terms that are subtracted, interpolated, scaled or stacked and summed as plain adds to the state."""

    name: ClassVar[str] = "normalize-adds"
    exact: ClassVar[bool] = True
    stage: ClassVar[Stage] = "clean"
    after: ClassVar[tuple[str, ...]] = ("merge-pieces",)

    def apply(self, module: fx.GraphModule) -> PassResult:
        """See the module's docstring."""
        matches: list[str] = []
        skipped: list[Skip] = []
        written: dict[fx.Node, fx.Node] = {}
        for chain in find_chains(module).chains:
            spelled = [add for add in chain if add.spelled is not None]
            if len(chain) < 2:
                skipped.extend(Skip(add.node.name, f"no other term is next to {add.node.name}") for add in spelled)
                continue
            for add in spelled:
                written[add.node] = _rewrite(module, add, written)
                matches.append(f"{add.node.name}: {add.node.target}")
        return PassResult(tuple(matches), tuple(skipped))


def _rewrite(module: fx.GraphModule, add: ResidualAdd, written: Mapping[fx.Node, fx.Node]) -> fx.Node:
    """Put add(skip, rest) in the place of a sum; `written` has what earlier sums have become."""
    root, spelled = add.node, add.spelled
    assert spelled is not None
    before, skip = root.prev, written.get(spelled.skip, spelled.skip)
    with module.graph.inserting_before(root):
        rest = _total(module, [_summand(module, summand, written) for summand in spelled.rest])
        complete_shapes(module, _between(before, root))
        rest = _expanded(module, rest, root, skip)
        total = module.graph.call_function(ops.ADD, (skip, rest))
    complete_shapes(module, _between(before, total))
    total.meta.update(root.meta)
    for node in _between(before, total):
        node.meta.update({key: root.meta[key] for key in ("nn_module_stack",) if key in root.meta})
    root.replace_all_uses_with(total)
    module.graph.erase_node(root)
    return total


def _total(module: fx.GraphModule, values: Sequence[fx.Node]) -> fx.Node:
    total = values[0]
    for value in values[1:]:
        total = module.graph.call_function(ops.ADD, (total, value))
    return total


def _summand(module: fx.GraphModule, summand: Summand, written: Mapping[fx.Node, fx.Node]) -> fx.Node:
    """The value of a summand, its numbers as one factor."""
    number = 1.0
    node = _node(module, summand.value, written)
    for factor in summand.factors:
        if isinstance(factor.value, (int, float)):
            number *= factor.value
        else:
            node = module.graph.call_function(_operator(factor), (node, _node(module, factor.value, written)))
    if number == 1:
        return node
    if number == -1:
        return module.graph.call_function(aten.neg.default, (node,))
    return module.graph.call_function(aten.mul.Tensor, (node, number))


def _operator(factor: Factor) -> Any:
    return aten.div.Tensor if factor.inverse else aten.mul.Tensor


def _node(module: fx.GraphModule, value: fx.Node | Call | float, written: Mapping[fx.Node, fx.Node]) -> fx.Node:
    if isinstance(value, fx.Node):
        return written.get(value, value)
    assert isinstance(value, Call)
    return module.graph.call_function(value.target, tuple(_argument(module, arg, written) for arg in value.args))


def _argument(module: fx.GraphModule, value: Any, written: Mapping[fx.Node, fx.Node]) -> Any:
    if isinstance(value, (list, tuple)):
        return [_argument(module, part, written) for part in value]
    return _node(module, value, written) if isinstance(value, (fx.Node, Call)) else value


def _expanded(module: fx.GraphModule, rest: fx.Node, root: fx.Node, skip: fx.Node) -> fx.Node:
    """What is added, in the state's shape."""
    value, total = tensor_value(rest), tensor_value(root)
    assert value is not None
    assert total is not None
    if same_shape(value, total):
        return rest
    sizes: list[int | fx.Node] = []
    ours = [None] * (total.ndim - value.ndim) + [str(size) for size in value.shape]
    for axis, (size, before) in enumerate(zip(total.shape, ours, strict=True)):
        if before == str(size):
            sizes.append(-1)
        elif isinstance(size, int):
            sizes.append(size)
        else:
            sizes.append(module.graph.call_function(aten.sym_size.int, (skip, axis)))
    return module.graph.call_function(aten.expand.default, (rest, sizes))


def _between(first: fx.Node, last: fx.Node) -> list[fx.Node]:
    """The nodes after one and before another."""
    found = []
    node = last.prev
    while node is not first:
        found.append(node)
        node = node.prev
    return found[::-1]
