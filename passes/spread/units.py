"""What of a sum can run on another rank than the rest: summands with all that only they need.

    x + a_1 + m_1(x + a_1) + a_2 + m_2(x + a_2)      has the units (a_1, m_1) and (a_2, m_2)

Summands that share a product are one unit; what all of them share, every rank computes. Whatever else two units share,
such as a norm, costs little and is computed by each. What something beside the sum needs as well is no part of a unit:
every rank computes it anyway.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

from torch import fx

from passes.fusion.sums import Sum
from passes.spread.work import flops


@dataclass(frozen=True)
class Unit:
    """Summands that one rank computes.

    Attributes:
        outputs: the summands, in the order of the sum.
        work: floating-point operations of what only they need.
    """

    outputs: tuple[fx.Node, ...]
    work: int


@dataclass(frozen=True)
class Units:
    """The units of one sum.

    Attributes:
        items: in the order of the sum; each has work to do.
        needs: for each node that nothing beside the sum needs, the summands that need it.
    """

    items: tuple[Unit, ...]
    needs: Mapping[fx.Node, frozenset[fx.Node]]


def find_units(found: Sum, place: Mapping[fx.Node, float]) -> Units:
    """The units of a sum.

    Args:
        found: the sum.
        place: each node's place in the order of execution.
    """
    needs = _needs(found, place)
    everyone = frozenset(node for node in found.terms if node in needs)
    if len(everyone) < 2:
        return Units((), needs)
    needs = _needs(found, place, everyone)
    able = [node for node in found.terms if node in needs]
    counted = {node: flops(node) for node in needs} if len(able) > 1 else {}
    leader = {node: node for node in able}
    for node in (node for node, work in counted.items() if work):
        joined = {leader[output] for output in needs[node]}
        first = min(joined, key=place.__getitem__)
        leader = {output: first if before in joined else before for output, before in leader.items()}
    bundles = [tuple(o for o in able if leader[o] is first) for first in dict.fromkeys(leader.values())]
    units = [Unit(outputs, _work(outputs, needs, counted)) for outputs in bundles]
    return Units(tuple(unit for unit in units if unit.work), needs)


def _work(
    outputs: tuple[fx.Node, ...], needs: Mapping[fx.Node, frozenset[fx.Node]], counted: Mapping[fx.Node, int]
) -> int:
    own = frozenset(outputs)
    return sum(work for node, work in counted.items() if needs[node] and needs[node] <= own)


def _needs(
    found: Sum, place: Mapping[fx.Node, float], everyone: frozenset[fx.Node] | None = None
) -> dict[fx.Node, frozenset[fx.Node]]:
    """For each node that would go with the sum, but for its states, the summands that need it.

    What `everyone` needs is left out, with all that only it needs.
    """
    needs: dict[fx.Node, frozenset[fx.Node]] = {found.root: frozenset()}
    waiting = [(-place[source], source) for source in found.root.all_input_nodes]
    heapq.heapify(waiting)
    seen: set[fx.Node] = set()
    while waiting:
        _, node = heapq.heappop(waiting)
        if node in seen or node in found.states or node.op not in ("call_function", "get_attr"):
            continue
        seen.add(node)
        if any(user not in needs for user in node.users):
            continue
        own = {node} if node in found.terms else set()
        needing = frozenset(chain(own, *(needs[user] for user in node.users)))
        if needing == everyone:
            continue
        needs[node] = needing
        for source in node.all_input_nodes:
            heapq.heappush(waiting, (-place[source], source))
    return needs
