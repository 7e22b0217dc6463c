"""Neighbours of a plan, and a search that measures them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallelize.planning.neighbours import neighbours
from parallelize.planning.options import PlannerOptions
from parallelize.planning.planner import Planner
from parallelize.planning.search import Candidate
from passes.errors import ParallelizeError
from passes.plan import Level, Plan, StackPlan
from tests.parallelize.planning.cases import levels, mlps, of_vision, post_norm_blocks, quick, stack_of


def _plan(*levels_: tuple[tuple[int, ...], ...], terms: int = 4) -> Plan:
    return Plan((StackPlan(terms, tuple(Level(chains) for chains in levels_)),))


def _neighbours(plan: Plan) -> list[list[tuple[tuple[int, ...], ...]]]:
    found = neighbours(plan, [stack_of(mlps())])
    return [[level.chains for level in near.stacks[0].levels] for near in found]


def test_a_term_goes_over_the_border_of_two_levels_either_way() -> None:
    assert _neighbours(_plan(((0,), (1,)), ((2,), (3,)))) == [
        [((0,),), ((1,), (2,), (3,))],
        [((0,), (1,), (2,)), ((3,),)],
    ]


def test_no_level_becomes_empty() -> None:
    assert _neighbours(_plan(((0,),), ((1,), (2,)), ((3,),))) == [
        [((0,), (1,)), ((2,),), ((3,),)],
        [((0,),), ((1,),), ((2,), (3,))],
    ]


def test_no_neighbour_is_deeper() -> None:
    """A chain of two terms would make a level of single terms deeper and leave its own as deep as it was."""
    plan = _plan(((0,), (1,)), ((2,), (3, 4)), ((5,),), terms=6)
    assert [near.stacks[0].depth for near in neighbours(plan, [stack_of(mlps(6))])] == [4, 4, 4]


def test_levels_go_on_beginning_in_the_order_of_the_network() -> None:
    sublayers = _plan(((0,), (2,)), ((1,), (3,)))
    assert _neighbours(sublayers) == [[((0,),), ((1,), (2,), (3,))], [((0,), (1,), (2,)), ((3,),)]]


def test_a_shared_norm_stays_where_all_terms_have_one() -> None:
    stack = stack_of(post_norm_blocks(3, (3,)))
    plan = Plan((StackPlan(6, (Level(((0,), (1,)), True), Level(((2,), (3,))), Level(((4,), (5,)), True))),))
    shared = [[level.shared for level in near.stacks[0].levels] for near in neighbours(plan, [stack])]
    assert shared == [[True, False, True], [True, False, True], [True, False, False], [True, False, True]]


@given(st.sets(st.integers(1, 5)))
def test_neighbours_are_valid_as_deep_and_have_the_plan_among_theirs(cuts: set[int]) -> None:
    ends = [0, *sorted(cuts), 6]
    pairs = itertools.pairwise(ends)
    plan = Plan((StackPlan(6, tuple(Level(tuple((t,) for t in range(a, b))) for a, b in pairs)),))
    stacks = [stack_of(mlps(6))]
    for near in neighbours(plan, stacks):
        near.stacks[0].check()
        assert near.stacks[0].depth == plan.stacks[0].depth
        assert plan in set(neighbours(near, stacks))


# ------------------------------------------------------------------------------------------------ the search


def _scripted(planner: Planner, errors: dict[tuple[tuple[int, ...], ...], float]) -> list[tuple[tuple[int, ...], ...]]:
    """Give whole networks the errors that are said, 1 where none is; the list of what is measured."""
    measured: list[tuple[tuple[int, ...], ...]] = []
    real = planner.candidate

    def candidate(plan: Plan, predicted: float = float("nan")) -> Candidate:
        measured.append(tuple(levels(plan)))
        return real(plan, predicted)

    planner.candidate = candidate  # type: ignore[method-assign]
    planner._error = lambda found: errors.get(tuple(levels(found.plan)), 1.0)  # type: ignore[method-assign]
    return measured


def test_better_neighbours_take_the_place_of_a_schedule() -> None:
    planner = quick(refit="none", refine=8)
    assert levels(planner.proposal(2)) == [(0, 1), (2, 3)]
    best = ((0, 1, 2), (3,))
    measured = _scripted(planner, {best: 0.1, ((0,), (1, 2, 3)): 0.5})
    assert tuple(levels(planner.measure(2).plan)) == best
    assert len(measured) == len(set(measured))


def test_as_many_neighbours_are_measured_as_were_asked_for() -> None:
    for count in (0, 1):
        planner = quick(refit="none", refine=count)
        planner.proposal(2)
        assert len(_run(planner)) == 1 + count


def _run(planner: Planner) -> list[tuple[tuple[int, ...], ...]]:
    measured = _scripted(planner, {})
    planner.measure(2)
    return measured


def test_a_refined_search_is_no_worse() -> None:
    plain, refined = quick(refit="none"), quick(refit="none", refine=20)
    for depth in (1, 2, 3):
        assert refined.measure(depth).scores.kl <= plain.measure(depth).scores.kl


def test_no_neighbour_is_measured_when_the_time_is_over() -> None:
    planner = quick(refit="none", refine=5, time_limit=1e9)
    planner.proposal(2)
    planner.deadline.end = 0.0
    assert len(_run(planner)) == 1


def test_neighbours_that_were_measured_before_and_are_no_better_are_not_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    first = quick(refit="none", refine=20, memory=path)
    chosen = first.measure(2)
    kept = json.loads(path.read_text())["networks"]
    assert kept
    again = quick(refit="none", refine=20, memory=path)
    again.proposal(2)
    measured: list[Plan] = []
    real = again.candidate
    again.candidate = lambda plan, *rest: measured.append(plan) or real(plan, *rest)  # type: ignore[method-assign, func-returns-value]
    assert again.measure(2).plan == chosen.plan
    assert len(measured) <= 2


def test_less_than_no_neighbours_are_refused() -> None:
    with pytest.raises(ParallelizeError, match="cannot measure -1 neighbours"):
        PlannerOptions(refine=-1)


def test_neighbours_of_a_transformer_are_refitted() -> None:
    found = of_vision().measure(1)
    near = next(neighbours(found.plan, of_vision().stacks))
    assert of_vision().candidate(near).refitted.levels
