"""Plans that differ from a plan by one move: a chain goes over to the level ahead of its own, or to the one after it.

    .. {a, b} {c, d} ..   ->   .. {a} {b, c, d} ..   and   .. {a, b, c} {d} ..

Moves keep the depth. Every schedule of a depth without deletion or change of its chains is a few moves away.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from passes.plan import Chain, Level, Plan, StackPlan
from passes.stacks.find import Stack


def neighbours(plan: Plan, stacks: Sequence[Stack]) -> Iterator[Plan]:
    """All plans that are one move away and as deep.

    Args:
        plan: the plan.
        stacks: the stacks that it is for.
    """
    for number, (part, stack) in enumerate(zip(plan.stacks, stacks, strict=True)):
        for moved in _moves(part, stack):
            yield replace(plan, stacks=(*plan.stacks[:number], moved, *plan.stacks[number + 1 :]))


def _moves(part: StackPlan, stack: Stack) -> Iterator[StackPlan]:
    for place, (ahead, after) in enumerate(itertools.pairwise(part.levels)):
        last, first = max(ahead.chains, key=min), min(after.chains, key=min)
        for left, right in (
            (_without(ahead, last), (last, *after.chains)),
            ((*ahead.chains, first), _without(after, first)),
        ):
            if not left or not right:
                continue
            levels = _level(left, ahead, stack), _level(right, after, stack)
            moved = replace(part, levels=(*part.levels[:place], *levels, *part.levels[place + 2 :]))
            if moved.depth == part.depth and _starts(moved) == sorted(_starts(moved)):
                yield moved


def _without(level: Level, chain: Chain) -> tuple[Chain, ...]:
    return tuple(other for other in level.chains if other != chain)


def _level(chains: Sequence[Chain], like: Level, stack: Stack) -> Level:
    """The chains in serial order, under one norm where they were and each of their terms has one."""
    shared = like.shared and all(stack.terms[term].norms for chain in chains for term in chain)
    return Level(tuple(sorted(chains)), shared)


def _starts(part: StackPlan) -> list[int]:
    """The first term of every level: levels must begin in the order of the serial network."""
    return [level.terms[0] for level in part.levels]
