"""Forms of groups are measured where they may matter, and the cheapest that is found is proposed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parallelize.planning.forms import GroupForm, main_form, other_forms
from parallelize.planning.fusibility import Fusibility
from parallelize.planning.planner import Planner
from tests.parallelize.planning.cases import (
    of_vision,
    on_vectors,
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
    spans = ((number, *span) for number, part in enumerate(planner.partitions()[depth][1]) for span in part)
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
    (spans,) = planner.partitions()[depth][1]
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
    for depth in searching.partitions():
        proposal = searching.proposal(depth)
        predicted, (spans,) = searching.partitions()[depth]
        wanted, total = [], 0.0
        for first, last in spans:
            costs = _known(searching, 0, first, last) or {main_form(stack, first, last): 0.0}
            cheapest = min(costs, key=costs.__getitem__)
            wanted.extend(cheapest.levels)
            total += costs[cheapest]
        assert len(spans) == depth
        assert proposal.stacks[0].levels == tuple(wanted)
        assert predicted == pytest.approx(total)


def test_before_a_depth_is_asked_for_all_groups_are_measured_in_their_main_form_only() -> None:
    planner = quick()
    planner.partitions()
    for group in _groups(planner):
        assert list(_known(planner, *group)) == [main_form(planner.stacks[0], *group[1:])]


def test_other_forms_are_measured_only_for_the_groups_of_the_depth_that_is_asked_for() -> None:
    planner = quick()
    wanted = _groups_at(planner, 2)
    planner.proposal(2)
    for group in _groups(planner):
        assert len(_known(planner, *group)) == (len(_forms(planner, *group)) if group in wanted else 1)
    before = dict(planner.costs.known)
    planner.proposal(2)
    planner.proposal(4)
    assert planner.costs.known == before, "nothing is new at the same depth, and the serial network has no groups"


def test_groups_of_every_depth_that_is_measured_are_tried_in_other_forms() -> None:
    planner = quick(refit="none")
    planner.measure(3)
    assert all(len(_known(planner, *group)) > 1 for group in _groups_at(planner, 3))
    assert len(_known(planner, 0, 0, 3)) == 1
    planner.measure(1)
    assert len(_known(planner, 0, 0, 3)) == len(_forms(planner, 0, 0, 3))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_whatever_groups_cost_what_is_proposed_has_no_cheaper_neighbouring_cut_and_no_cheaper_main_form(
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    planner = _two_terms()
    table = _told(planner, lambda form: float(torch.rand((), generator=generator)))
    (stack,) = planner.stacks
    for depth in planner.partitions():
        chosen = _chosen(planner, depth)
        for form in chosen:
            near = other_forms(stack, *form.span, form.cut) if form.cut is not None else ()
            assert table[form] <= min(table[other] for other in (main_form(stack, *form.span), *near))
        assert planner.partitions()[depth][0] == pytest.approx(sum(table[form] for form in chosen))


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
    assert planner.partitions()[1] == (2.0, (((0, 5),),))


def test_a_cheaper_form_of_a_group_changes_the_groups_of_another_depth() -> None:
    """Depth 3 has blocks 0 and 1 side by side until depth 2 finds a cheap form for blocks 2 and 3."""
    planner = quick()
    mains = {(0, 1): 2.0, (1, 2): 3.0, (2, 3): 2.5, (0, 2): 9.0, (1, 3): 9.0, (0, 3): 9.0}
    others = {**dict.fromkeys(mains, 10.0), (2, 3): 0.5}
    _told(planner, lambda form: (mains if form.name == "sublayer" else others)[form.span])
    assert planner.partitions()[3] == (2.0, (((0, 1), (2, 2), (3, 3)),))
    planner.proposal(2)
    assert planner.partitions()[2] == (2.5, (((0, 1), (2, 3)),))
    assert planner.partitions()[3] == (0.5, (((0, 0), (1, 1), (2, 3)),))


def test_a_planner_that_was_interrupted_measures_the_rest_when_it_is_asked_again() -> None:
    def stop(what: str, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    planner = quick()
    planner.progress = stop
    with pytest.raises(KeyboardInterrupt):
        planner.partitions()
    planner.progress = None
    assert planner.partitions() == quick().partitions()
