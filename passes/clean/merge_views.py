"""Bring runs of operators that only reshape and reorder to the fewest that do the same.

    view(view(x))         ->  view(x)
    permute(permute(x))   ->  permute(x), or x
    permute(view(permute(x)))  ->  view and permute, where the view only splits and joins dimensions

Cases:
    1. view, reshape, flatten, unflatten, squeeze, unsqueeze, permute, transpose, and copies among them;
    2. sizes that are known only when the model runs: the one that follows from the others is -1, further ones are read
       where the graph reads them already;
    3. values on the way that something else reads too: they stay, and count as not saved.

Refused, each with its reason: fewer operators whose result would lie otherwise in memory, because what reads it may
round otherwise there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import fx

from passes.graph import operators as ops
from passes.graph.dataflow import tensor_value
from passes.graph.editing import erase_unread
from passes.graph.rearrangement import Rearrangement, Step
from passes.graph.replacing import Replacing
from passes.graph.sizes import sizes
from passes.graph.view_nodes import Emitted, lies_alike
from passes.runner import Pass, PassResult, Skip, Stage

aten = ops.aten

RESHAPES = ops.VIEWS | {
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
}
PERMUTATIONS = frozenset({aten.permute.default, aten.transpose.int})


@dataclass(frozen=True)
class MergeViews(Pass):
    """Bring runs of views and permutations to the fewest that do the same."""

    name: ClassVar[str] = "merge-views"
    exact: ClassVar[bool] = True
    stage: ClassVar[Stage] = "clean"
    after: ClassVar[tuple[str, ...]] = ("fold-batch-norm",)

    def apply(self, module: fx.GraphModule) -> PassResult:
        """See the module's docstring."""
        return merge_runs(module)


def merge_runs(module: fx.GraphModule) -> PassResult:
    """Merge every run of a graph, the last operators first."""
    result = PassResult()
    for node in list(reversed(module.graph.nodes)):
        if not node._erased and is_step(node):
            result += _merge(module, node)
    return result


def is_step(node: fx.Node) -> bool:
    """Whether a node only reshapes or reorders one tensor."""
    if node.op != "call_function" or node.target not in RESHAPES | PERMUTATIONS:
        return False
    return tensor_value(node) is not None and isinstance(node.args[0], fx.Node)


def after(run: Rearrangement, node: fx.Node) -> Rearrangement | None:
    """A rearrangement followed by an operator; None where it is not known what the dimensions hold."""
    value = tensor_value(node)
    assert value is not None
    if node.target not in PERMUTATIONS:
        return run.viewed(sizes(value))
    return run.permuted(order_of(node))


def order_of(node: fx.Node) -> list[int]:
    """The order into which a permutation or a transposition brings dimensions."""
    rank = cast("Any", tensor_value(node)).ndim
    if node.target == aten.permute.default:
        return [dim % rank for dim in cast("list[int]", node.args[1])]
    order = list(range(rank))
    first, second = (cast("int", dim) % rank for dim in node.args[1:3]) if rank else (0, 0)
    if rank:
        order[first], order[second] = order[second], order[first]
    return order


def chain_of(node: fx.Node) -> list[fx.Node]:
    """A node and the operators of its run ahead of it, the last first."""
    chain = [node]
    while True:
        source = cast("fx.Node", chain[-1].args[0])
        if not (is_step(source) or (source.op == "call_function" and source.target in ops.COPIES)):
            return chain
        chain.append(source)


def composed(chain: Sequence[fx.Node]) -> Rearrangement | None:
    """What the operators of a chain do together."""
    value = tensor_value(cast("fx.Node", chain[-1].args[0]))
    if value is None:
        return None
    run: Rearrangement | None = Rearrangement.identity(sizes(value))
    for node in reversed(chain):
        run = None if run is None else after(run, node)
    return run


def _merge(module: fx.GraphModule, node: fx.Node) -> PassResult:
    """Put fewer operators in the place of a node and those ahead of it that only it needs."""
    twin = _twin(node)
    if twin is not None:
        node.replace_all_uses_with(twin)
        erase_unread(node)
        return PassResult((f"{node.name} is {twin.name}",))
    chain = chain_of(node)
    saving: list[tuple[int, int, tuple[Step, ...]]] = []
    for length in range(1, len(chain) + 1):
        run = None if chain[length - 1].target in ops.COPIES else composed(chain[:length])
        if run is not None:
            saving.extend((dying(chain[:length]) - len(steps), length, steps) for steps in run.steps())
    skipped: tuple[Skip, ...] = ()
    for gain, length, steps in sorted(saving, key=lambda each: (-each[0], each[1])):
        if gain <= 0:
            break
        names = ", ".join(step.name for step in reversed(chain[:length]))
        emitted = Emitted.after(Replacing(module, node), source_of(chain[length - 1]), steps)
        if emitted is None:
            continue
        if emitted.reads >= gain:
            emitted.abandon()
        elif not lies_alike(emitted.node, node):
            emitted.abandon()
            reason = f"{names} could be {counted(steps)}, which would lie otherwise in memory"
            skipped = skipped or (Skip(node.name, reason),)
        else:
            node.replace_all_uses_with(emitted.node)
            erase_unread(node)
            return PassResult((f"{names} -> {counted(steps)}",))
    return PassResult((), skipped)


def _twin(node: fx.Node) -> fx.Node | None:
    """A node further up that makes the same of the same source."""
    run = composed([node])
    others = [other for other in source_of(node).users if is_step(other) and other < node]
    alike = (other for other in others if run is not None and composed([other]) == run and lies_alike(other, node))
    return next(alike, None)


def dying(chain: Sequence[fx.Node]) -> int:
    """How many operators of a chain nothing else needs than what comes after them."""
    count = 1
    while count < len(chain) and len(chain[count].users) == 1:
        count += 1
    return count


def source_of(node: fx.Node) -> fx.Node:
    """What a node reshapes or reorders."""
    return cast("fx.Node", node.args[0])


def counted(steps: Sequence[object]) -> str:
    """How many operators these are, in words."""
    return ("nothing", "one operator", "two operators", "three operators")[len(steps)]
