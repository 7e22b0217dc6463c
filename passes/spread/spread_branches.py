"""Spread the branches of each level over ranks, with one all-reduce for the level.

    y = x + sum_i f_i(x)        becomes, on rank r,        y = x + all-reduce(sum of f_i(x) over its own i)

Each rank keeps the branches that are its own, with their weights alone; the state is computed on all of them. What a
refit adds to a level is a branch like any other, so it is added once. Branches are assigned by their floating-point
operations (passes/spread/assignment.py), from the graph alone, so all ranks find the same.

Cases:
    1. any sum whose summands can be computed apart: the levels of a plan, the branches of a Para-Former, attention
       beside an MLP; a sum inside a branch is left to whoever has the branch;
    2. a level with fewer branches than ranks: the other ranks add zeros;
    3. training: what the branches read collects its gradients over the ranks (passes/spread/collectives.py), weights
       that branches of several ranks read too.

Left to every rank, each with its reason:
    1. a level with a branch that draws random values;
    2. a level of which one branch has nearly all work, as the projection beside a block of a ResNet has not;
    3. a level with fewer branches than ranks, and no value of the sum's shape that all ranks have.

Refused: no level has a branch for each rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from passes.errors import ParallelizeError
from passes.fusion.sums import Sum, expand, find_roots
from passes.graph import operators as ops
from passes.graph.dataflow import is_float, positions, same_shape, tensor_value
from passes.graph.editing import restore_order
from passes.graph.parameters import is_learned, read_parameter
from passes.graph.weighted_sum import weighted_sum
from passes.runner import Pass, PassResult, Skip, Stage
from passes.spread.assignment import Assignment, assigned
from passes.spread.collectives import ALL_REDUCE, WAIT, add_over_ranks, read_by_branches
from passes.spread.order import LEVEL
from passes.spread.units import Units, find_units

aten = ops.aten

MOST = 0.85  # of the work of a level on its busiest rank: with more, an all-reduce buys nothing
_EVERY = -1  # in the place of a rank


@dataclass(frozen=True)
class SpreadBranches(Pass):
    """Keep the branches of one rank, and add those of all ranks with one all-reduce for each level.

    Attributes:
        rank: whose branches stay.
        size: how many ranks there are.
        group: name of their process group.
        trains: whether gradients are to be those of one process.
    """

    rank: int
    size: int
    group: str
    trains: bool = False
    name: ClassVar[str] = "spread-branches"
    exact: ClassVar[bool] = True
    stage: ClassVar[Stage] = "spread"

    def apply(self, module: fx.GraphModule) -> PassResult:
        """See the module's docstring.

        Raises:
            ParallelizeError: no level has a branch for each rank.
        """
        if any(LEVEL in node.meta for node in module.graph.nodes):
            return PassResult()
        place = positions(module.graph)
        levels, skipped = _levels(module, place, self.size)
        _require_work(levels, skipped, self.size)
        owners = _Owners(module, levels) if self.trains else None
        for number, level in reversed(list(enumerate(levels))):
            _spread(module, level, number, self, owners)
        restore_order(module)
        changed = tuple(output.name for level in levels for unit in level.units.items for output in unit.outputs)
        present = changed + tuple(skip.node for skip in skipped)
        return PassResult(tuple(level.told for level in levels), tuple(skipped), present, changed)


@dataclass(frozen=True)
class _Level:
    """A sum and who computes what of it."""

    sum: Sum
    units: Units
    assignment: Assignment

    @property
    def told(self) -> str:
        """Such as "add_7: 4 branches on 2 ranks, 52% of the work on the busiest"."""
        idle = len(self.assignment.loads) - self.assignment.used
        ranks = f"{self.assignment.used} ranks" + (f", {idle} idle" if idle else "")
        return f"{self.sum.root.name}: {len(self.units.items)} branches on {ranks}, {self.assignment.share:.0%} on one"

    def ranks(self) -> dict[fx.Node, set[int]]:
        """For each node of a branch the ranks that compute it."""
        owner = {o: r for unit, r in zip(self.units.items, self.assignment.owners, strict=True) for o in unit.outputs}
        return {
            node: {owner.get(output, _EVERY) for output in needs} for node, needs in self.units.needs.items() if needs
        }

    def own(self, rank: int) -> list[fx.Node]:
        """The summands of a rank."""
        mine = (u for u, owner in zip(self.units.items, self.assignment.owners, strict=True) if owner == rank)
        return [output for unit in mine for output in unit.outputs]


def _levels(module: fx.GraphModule, place: dict[fx.Node, int], size: int) -> tuple[list[_Level], list[Skip]]:
    """The sums to spread in the order of execution, and the summands of others, each with the reason."""
    levels: list[_Level] = []
    skipped: list[Skip] = []
    inside: set[fx.Node] = set()  # of branches
    for root in reversed([node for node, last in find_roots(module).items() if node is last]):
        if root in inside:
            continue
        found = expand(module, root, place)
        units = find_units(found, place)
        if len(units.items) < 2:
            continue
        assignment = assigned([unit.work for unit in units.items], size)
        reason = _reason(found, units, assignment)
        if reason is not None:
            skipped.extend(Skip(output.name, reason) for unit in units.items for output in unit.outputs)
            continue
        inside.update(units.needs)
        levels.append(_Level(found, units, assignment))
    return levels[::-1], skipped


def _reason(found: Sum, units: Units, assignment: Assignment) -> str | None:
    """Why a sum is left to every rank; None where it is not."""
    random = next((node for node, needs in units.needs.items() if needs and ops.is_random(node)), None)
    if random is not None:
        return f"{random.name} ({random.target}) draws random values, which differ between ranks"
    if assignment.share > MOST and len(assignment.loads) > 1:
        return f"one branch of {found.root.name} has {assignment.share:.0%} of the work"
    if assignment.used < len(assignment.loads) and _like(found, _read(units)) is None:
        return f"no value of the shape of {found.root.name} is on all ranks, so that one without a branch had no zeros"
    return None


def _require_work(levels: Sequence[_Level], skipped: Sequence[Skip], size: int) -> None:
    """Refuse more ranks than branches in every level."""
    most = max((len(level.units.items) for level in levels), default=1)
    if most >= size:
        return
    if levels:
        raise ParallelizeError(
            f"No level has a branch for each of {size} ranks: the most branches on one level are {most}.",
            f"Start {most} processes, or convert the model to fewer levels.",
        )
    why = f" ({skipped[0].reason})" if skipped else ""
    raise ParallelizeError(
        f"The network has no level of several branches that {size} ranks could share{why}.",
        "Convert it to fewer levels, or run it in one process.",
    )


def _read(units: Units) -> list[fx.Node]:
    """What the branches of a sum read from outside, weights left out, in the order of execution."""
    inner = [node for node, needs in units.needs.items() if needs and node.op == "call_function"]
    sources = dict.fromkeys(source for node in reversed(inner) for source in node.all_input_nodes)
    return [source for source in sources if source not in units.needs]


def _like(found: Sum, candidates: Iterable[fx.Node]) -> fx.Node | None:
    """A value of the sum's shape and dtype among some, states first."""
    wanted = tensor_value(found.root)
    assert wanted is not None
    for node in (*(node for node in candidates if node in found.states), *candidates):
        value = tensor_value(node)
        if value is not None and value.dtype == wanted.dtype and same_shape(value, wanted):
            return node
    return None


class _Owners:
    """Weights that gradients of several ranks flow to: those that branches of several ranks read, or others too."""

    def __init__(self, module: fx.GraphModule, levels: Sequence[_Level]) -> None:
        self.module = module
        ranks_of = {node: ranks for level in levels for node, ranks in level.ranks().items()}
        found: dict[int, set[int]] = {}
        for node in (node for node in module.graph.find_nodes(op="get_attr") if self._is_weight(node)):
            for user in node.users:
                found.setdefault(self._key(node), set()).update(ranks_of.get(user, {_EVERY}))
        self.shared = {key for key, ranks in found.items() if len(ranks) > 1}

    def is_shared(self, node: fx.Node) -> bool:
        """Whether a node reads such a weight."""
        return self._is_weight(node) and self._key(node) in self.shared

    def _is_weight(self, node: fx.Node) -> bool:
        return node.op == "get_attr" and is_float(node) and is_learned(self.module, node)

    def _key(self, node: fx.Node) -> int:
        return read_parameter(self.module, node).data_ptr()


def _spread(module: fx.GraphModule, level: _Level, number: int, step: SpreadBranches, owners: _Owners | None) -> None:
    """Put the rank's own summands and an all-reduce in the place of all units of a sum."""
    found, own = level.sum, level.own(step.rank)
    outside = _read(level.units)
    like = _like(found, outside)
    mine = None
    with module.graph.inserting_before(found.root):
        if own:
            mine = weighted_sum(module, [(node, found.terms[node]) for node in own])
        if owners is None:
            total = _reduced(module, mine, like, number, step.group)
        else:
            total = _recorded(module, level, mine, like, number, step.group, owners)
        spread = {output for unit in level.units.items for output in unit.outputs}
        rest = [(node, factor) for node, factor in found.terms.items() if node not in spread]
        value = weighted_sum(module, [*rest, (total, 1.0)])
    value.meta.update(found.root.meta)
    found.root.replace_all_uses_with(value)


def _reduced(module: fx.GraphModule, mine: fx.Node | None, like: fx.Node | None, number: int, group: str) -> fx.Node:
    """The sum over the ranks, where no gradients are wanted."""
    call = module.graph.call_function
    summand = mine if mine is not None else call(aten.zeros_like.default, (like,))
    summed = call(ALL_REDUCE, (summand, "sum", group))
    summed.meta[LEVEL] = number
    return call(WAIT, (summed,))


def _recorded(
    module: fx.GraphModule,
    level: _Level,
    mine: fx.Node | None,
    like: fx.Node | None,
    number: int,
    group: str,
    owners: _Owners,
) -> fx.Node:
    """The sum over the ranks, with what the branches read handed to them together."""
    inner = {node for node, needs in level.units.needs.items() if needs}
    read = [source for source in _read(level.units) if is_float(source) and source.op != "get_attr"]
    weights = [node for node in module.graph.find_nodes(op="get_attr") if not inner.isdisjoint(node.users)]
    handed = [*read, *(node for node in weights if owners.is_shared(node))]
    call = module.graph.call_function
    if not handed:
        return call(add_over_ranks, (mine, like or mine, like or mine, group))
    together = call(read_by_branches, (handed, group))
    together.meta[LEVEL] = number
    parts = {source: call(ops.GETITEM, (together, place)) for place, source in enumerate(handed)}
    for source, part in parts.items():
        for user in [user for user in source.users if user in inner]:
            user.replace_input_with(source, part)
    total = call(add_over_ranks, (mine, like or mine, parts[handed[0]], group))
    total.meta[LEVEL] = number
    return total
