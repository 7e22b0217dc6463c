"""Share a depth among the stacks of a model: each has options of several depths, each with a cost, and costs add up.

    minimise  sum_s cost_s(d_s)      where the longest path through the graph of stacks is D, for every D at once

Stacks are taken one after another, each behind those that it reads. Of what has been taken, later stacks need only the
times at which it ends, and those that the same stacks wait for count as one, their latest. So equal times are one
state, of which the cheapest choice is kept, and the result is exact for every graph: one number in a row of stacks or
of branches, a few in towers and ladders. Only where a graph is so entangled that there are more than `MOST_STATES`
of them are the cheapest kept; what is found then has the depth that is told, but need not be the cheapest of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import networkx as nx

Option = TypeVar("Option")
Found = dict[tuple[int, ...], tuple[float, tuple[Option, ...]]]  # times of the open ends -> cost and choices
Ends = tuple[frozenset[int], ...]  # for each open end the stacks that wait for it; none for an end of the model

MOST_STATES = 20_000


def share_depth(
    order: nx.DiGraph, options: Sequence[Mapping[int, tuple[float, Option]]]
) -> dict[int, tuple[float, tuple[Option, ...]]]:
    """For every depth of the whole the cheapest choice of one option for each stack.

    Args:
        order: numbers of stacks, an edge to each that waits, as `passes.stacks.stack_graph` makes it.
        options: for each stack, depth -> cost and option.

    Returns:
        Longest path -> sum of costs, and the options in the order of the stacks.
    """
    ends: Ends = ()
    found: Found[Option] = {(): (0.0, ())}
    placed: list[int] = []
    while len(placed) < len(options):
        number, after = _next(order, ends, placed)
        found = _extended(found, ends, after, number, frozenset(order.successors(number)), options[number])
        placed.append(number)
        ends = after
    back = sorted(range(len(placed)), key=placed.__getitem__)
    shared: dict[int, tuple[float, tuple[Option, ...]]] = {}
    for times, (cost, chosen) in found.items():
        depth = max(times, default=0)
        if depth not in shared or cost < shared[depth][0]:
            shared[depth] = (cost, tuple(chosen[place] for place in back))
    return shared


def _next(order: nx.DiGraph, ends: Ends, placed: Sequence[int]) -> tuple[int, Ends]:
    """Of the stacks that wait for none any more, the one that leaves fewest open ends, and these."""
    ready = [n for n in order if n not in placed and all(before in placed for before in order.predecessors(n))]
    return min(((number, _after(order, ends, number)) for number in ready), key=lambda choice: len(choice[1]))


def _after(order: nx.DiGraph, ends: Ends, number: int) -> Ends:
    """The open ends once a stack has run: what only this stack waited for is closed."""
    left = [waiting - {number} for waiting in ends if waiting != {number}]
    return tuple(dict.fromkeys([*left, frozenset(order.successors(number))]))


def _extended(
    found: Found[Option],
    ends: Ends,
    after: Ends,
    number: int,
    waiting: frozenset[int],
    options: Mapping[int, tuple[float, Option]],
) -> Found[Option]:
    """All states with each option of one more stack."""
    place = {end: index for index, end in enumerate(after)}
    made: Found[Option] = {}
    for times, (cost, chosen) in found.items():
        start = max((time for time, end in zip(times, ends, strict=True) if number in end), default=0)
        kept = [0] * len(after)
        for time, end in zip(times, ends, strict=True):
            if end != {number}:
                index = place[end - {number}]
                kept[index] = max(kept[index], time)
        for depth in sorted(options, reverse=True):  # of equal costs the deepest: fewer changes
            more, option = options[depth]
            key = list(kept)
            key[place[waiting]] = max(key[place[waiting]], start + depth)
            state = tuple(key)
            if state not in made or cost + more < made[state][0]:
                made[state] = (cost + more, (*chosen, option))
    if len(made) <= MOST_STATES:
        return made
    cheapest = sorted(made, key=lambda state: made[state][0])[:MOST_STATES]
    return {state: made[state] for state in cheapest}
