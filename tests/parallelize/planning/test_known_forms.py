"""Forms of groups are measured where they may matter, and the cheapest that is found is proposed."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parallelize.planning.forms import GroupForm, main_form, other_forms
from parallelize.planning.fusibility import Fusibility
from parallelize.planning.partition import best_partitions
from parallelize.planning.planner import Planner
from tests.parallelize.planning.cases import (
    VECTORS,
    Simulated,
    mlps,
    of_vision,
    on_vectors,
    partitions,
    post_norm_blocks,
    quick,
    stack_of,
)

Key = tuple[int, int, int]  # stack, first and last block


def _forms(planner: Planner, number: int, first: int, last: int) -> list[GroupForm]:
    """All forms that a group can come to be measured in, whatever its cheapest cut."""
    stack = planner.stacks[number]
    main = main_form(stack, first, last)
    cuts = [None] if main.cut is None else range(first + 1, last + 1)
    forms = [main, *(form for cut in cuts for form in other_forms(stack, first, last, cut))]
    return list(dict.fromkeys(forms))


def _known(planner: Planner, number: int, first: int, last: int) -> dict[GroupForm, float]:
    """The forms of a group that were measured."""
    costs = {form: planner.costs.key(number, form) for form in _forms(planner, number, first, last)}
    return {form: planner.costs.known[key] for form, key in costs.items() if key in planner.costs.known}


def _groups(planner: Planner) -> Iterator[tuple[int, int, int]]:
    """All groups of two blocks or more."""
    for number, stack in enumerate(planner.stacks):
        count = len(stack.blocks)
        yield from ((number, i, j) for i in range(count) for j in range(i + 1, count))


def _groups_at(planner: Planner, depth: int) -> set[Key]:
    """Groups of two blocks or more of the best partition of a depth."""
    spans = ((number, *span) for number, part in enumerate(partitions(planner)[depth][1]) for span in part)
    return {(number, first, last) for number, first, last in spans if first < last}


def _told(planner: Planner, cost: Callable[[GroupForm], float]) -> dict[GroupForm, float]:
    """What every form of every group of the only stack costs, which the planner knows beforehand."""
    table = {form: cost(form) for group in _groups(planner) for form in _forms(planner, *group)}
    planner.costs.known.update({planner.costs.key(0, form): value for form, value in table.items()})
    return table


@functools.cache
def _fusibility() -> Fusibility:
    """Of six blocks of two terms; what fuses does not depend on what it costs."""
    program = post_norm_blocks(6)
    return Fusibility(program.module, (stack_of(program),))


def _two_terms() -> Planner:
    """A planner for six blocks of two terms."""
    planner = on_vectors(post_norm_blocks(6), "relative-l2")
    planner.groups.fusibility = _fusibility()
    return planner


def _by_cut(costs: Mapping[int, float]) -> Callable[[GroupForm], float]:
    """Costs of forms by their cut; whatever has none is dear."""
    return lambda form: 9.0 if form.cut is None else costs[form.cut]


def _chosen(planner: Planner, depth: int) -> list[GroupForm]:
    """Forms of the groups of two blocks or more of a proposal, told by their levels."""
    (part,) = planner.proposal(depth).stacks
    (spans,) = partitions(planner)[depth][1]
    found, place = [], 0
    for first, last in spans:
        forms = _forms(planner, 0, first, last) if first < last else [main_form(planner.stacks[0], first, last)]
        form = next(form for form in forms if part.levels[place : place + len(form.levels)] == form.levels)
        found.append(form)
        place += len(form.levels)
    assert place == len(part.levels)
    return [form for form in found if form.first < form.last]


def _cut_of_all(planner: Planner) -> int | None:
    """At which cut all blocks are proposed as one group."""
    (form,) = _chosen(planner, 1)
    return form.cut


@pytest.mark.parametrize(
    "planner",
    [pytest.param(of_vision, marks=pytest.mark.slow), quick, lambda: on_vectors(post_norm_blocks(3), "relative-l2")],
)
def test_the_cheapest_measured_form_of_every_group_is_proposed(planner: object) -> None:
    assert callable(planner)
    searching: Planner = planner()
    (stack,) = searching.stacks
    for depth in partitions(searching):
        proposal = searching.proposal(depth)
        predicted, (spans,) = partitions(searching)[depth]
        wanted, total = [], 0.0
        for first, last in spans:
            costs = _known(searching, 0, first, last) or {main_form(stack, first, last): 0.0}
            cheapest = min(costs, key=costs.__getitem__)
            wanted.extend(cheapest.levels)
            total += costs[cheapest]
        assert len(spans) == depth
        assert proposal.stacks[0].levels == tuple(wanted)
        assert predicted == pytest.approx(total)


def _pairs_cost(generator: torch.Generator, blocks: int) -> Callable[[GroupForm], float]:
    """Every pair of blocks that no longer see each other costs something; other forms than the main one are dear."""
    weights = torch.rand(blocks, blocks, generator=generator).pow(4)

    def cost(form: GroupForm) -> float:
        first, last = form.span
        inside = weights[first : last + 1, first : last + 1]
        return float(inside.triu(1).sum()) if form.name == "sublayer" else 1e3

    return cost


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 10_000))
def test_the_best_partition_is_found_without_measuring_all_groups(seed: int) -> None:
    blocks = 7
    planner = on_vectors(mlps(blocks), longest_group=blocks)
    cost = _pairs_cost(torch.Generator().manual_seed(seed), blocks)
    planner.costs._measure = lambda number, form: cost(form)  # type: ignore[method-assign]
    (stack,) = planner.stacks
    all_costs = {
        (i, j): cost(main_form(stack, i, j)) if i < j else 0.0 for i in range(blocks) for j in range(i, blocks)
    }
    best = best_partitions(blocks, all_costs)
    assert planner.partition(3)[0] == pytest.approx(best[3][0], abs=1e-5)
    measured = {tuple(key.split()[1:2]) for key in planner.costs.known}
    assert len(measured) < blocks * (blocks - 1) / 2
    for depth in planner.depths:
        assert planner.partition(depth)[0] == pytest.approx(best[depth][0], abs=1e-5)


def test_before_a_depth_is_asked_for_nothing_is_measured_and_of_the_serial_one_neither() -> None:
    planner = quick()
    assert planner.depths == [1, 2, 3, 4]
    planner.proposal(4)
    assert planner.costs.known == {}


def test_all_forms_of_the_groups_of_the_depth_that_is_asked_for_are_measured_once() -> None:
    planner = quick()
    planner.proposal(2)
    for group in _groups_at(planner, 2):
        assert len(_known(planner, *group)) == len(_forms(planner, *group))
    before = dict(planner.costs.known)
    planner.proposal(2)
    planner.proposal(4)
    assert planner.costs.known == before


def test_groups_of_every_depth_that_is_measured_are_tried_in_other_forms() -> None:
    planner = quick(refit="none")
    planner.measure(3)
    assert all(len(_known(planner, *group)) > 1 for group in _groups_at(planner, 3))
    planner.measure(1)
    assert len(_known(planner, 0, 0, 3)) == len(_forms(planner, 0, 0, 3))


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 10_000))
def test_whatever_groups_cost_what_is_proposed_has_no_cheaper_neighbouring_cut_and_no_cheaper_main_form(
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    planner = _two_terms()
    table = _told(planner, lambda form: float(torch.rand((), generator=generator)))
    (stack,) = planner.stacks
    for depth in partitions(planner):
        chosen = _chosen(planner, depth)
        for form in chosen:
            near = other_forms(stack, *form.span, form.cut) if form.cut is not None else ()
            assert table[form] <= min(table[other] for other in (main_form(stack, *form.span), *near))
        assert partitions(planner)[depth][0] == pytest.approx(sum(table[form] for form in chosen))


def test_a_cheaper_neighbouring_cut_is_followed_step_by_step() -> None:
    planner = _two_terms()
    _told(planner, _by_cut({cut: float(cut) for cut in range(1, 6)}))
    assert _cut_of_all(planner) == 1


def test_a_cut_behind_a_dearer_one_is_not_found() -> None:
    planner = _two_terms()
    _told(planner, _by_cut({1: 0.0, 2: 2.0, 3: 1.0, 4: 2.0, 5: 0.0}))
    assert _cut_of_all(planner) == 3


def test_after_the_last_round_the_cheapest_cut_so_far_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parallelize.planning.known_forms.ROUNDS", 1)
    planner = _two_terms()
    _told(planner, _by_cut({cut: float(cut) for cut in range(1, 6)}))
    assert _cut_of_all(planner) == 2


def test_a_cheaper_form_of_a_group_changes_the_groups_of_another_depth() -> None:
    """Depth 3 has blocks 0 and 1 side by side until depth 2 finds a cheap form for blocks 2 and 3."""
    planner = quick()
    mains = {(0, 1): 2.0, (1, 2): 3.0, (2, 3): 2.5, (0, 2): 9.0, (1, 3): 9.0, (0, 3): 9.0}
    others = {**dict.fromkeys(mains, 10.0), (2, 3): 0.5}
    _told(planner, lambda form: (mains if form.name == "sublayer" else others)[form.span])
    assert planner.partition(3) == (2.0, (((0, 1), (2, 2), (3, 3)),))
    assert planner.partition(2) == (2.5, (((0, 1), (2, 3)),))
    assert planner.partition(3) == (0.5, (((0, 0), (1, 1), (2, 3)),))


def test_a_planner_that_was_interrupted_measures_the_rest_when_it_is_asked_again() -> None:
    def stop(what: str, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    planner = quick()
    planner.progress = stop
    with pytest.raises(KeyboardInterrupt):
        partitions(planner)
    planner.progress = None
    assert partitions(planner) == partitions(quick())


# ------------------------------------------------------------------------------------------------ several ranks


def _with_ranks(size: int, batches: list[int]) -> Planner:
    """A planner for six blocks of two terms that measures what so many ranks would, and notes how much at a time."""
    planner = on_vectors(post_norm_blocks(6), "relative-l2", ranks=Simulated(size, batches))
    planner.groups.fusibility = _fusibility()
    return planner


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 10_000), size=st.integers(2, 5), depths=st.permutations([1, 2, 3, 4, 5]))
def test_whatever_groups_cost_several_ranks_ask_for_the_same_ones_and_propose_the_same_as_one_alone(
    seed: int, size: int, depths: list[int]
) -> None:
    """No order among the costs, and some infinite: every bound and whatever is foreseen is wrong at times."""

    def cost(number: int, form: GroupForm) -> float:
        drawn = random.Random(f"{seed} {form.span} {form.name}")
        return drawn.choice([inf, 0.0, drawn.random(), drawn.random()])

    planners = [_with_ranks(number, []) for number in (1, size)]
    for planner in planners:
        planner.costs._measure = cost  # type: ignore[method-assign]
    alone, together = planners
    for depth in depths:
        assert together.proposal(depth) == alone.proposal(depth)
        assert together.partition(depth) == alone.partition(depth)
    assert list(together.costs.known.items()) == list(alone.costs.known.items())
    assert alone.costs.ahead == {}
    assert not together.costs.ahead.keys() & together.costs.known.keys()


def test_what_several_ranks_measure_ahead_is_mostly_asked_for_next() -> None:
    """Every pair of blocks that no longer see each other costs something: groups of a trained network are like this."""
    alone, together = [], []
    for seed in range(6):
        for batches, size in ((alone, 1), (together, 4)):
            planner = _with_ranks(size, batches)
            weights = torch.rand(6, 6, generator=torch.Generator().manual_seed(seed)).pow(4)
            planner.costs._measure = (
                lambda _, form, w=weights: float(  # type: ignore[method-assign, misc]
                    w[form.first : form.last + 1, form.first : form.last + 1].triu(1).sum()
                )
            )
            planner.partition(3)
    assert len(together) < len(alone) / 2
    assert sum(together) < 1.2 * sum(alone)


def test_what_was_measured_ahead_and_not_asked_for_is_kept_and_does_not_change_what_a_resumed_search_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if what == "measuring groups, 1 so far":
            raise KeyboardInterrupt

    monkeypatch.setattr("parallelize.planning.memory.SECONDS", -1.0)
    path, free = tmp_path / "memory.json", quick()
    free.proposal(2)
    stopped = Planner(mlps(), *VECTORS, "kl", replace(free.options, memory=path), stop, Simulated(3, []))
    with pytest.raises(KeyboardInterrupt):
        stopped.proposal(2)
    assert len(json.loads(path.read_text())["ahead"]) == 2
    again = quick(memory=path)
    before = dict(again.costs.ahead)
    assert again.proposal(2) == free.proposal(2)
    assert again.costs.known == free.costs.known
    assert any(again.costs.known.get(name) == error for name, error in before.items())


def test_several_ranks_end_at_the_same_neighbour_of_a_schedule_as_one_alone() -> None:
    plans = []
    for size in (1, 3):
        planner = quick(refine=3, ranks=Simulated(size, []))
        found = planner.measure(2)
        plans.append((found.plan, found.predicted, found.scores.error("kl")))
        assert planner.forward_passes > 0
    assert plans[0] == plans[1]
