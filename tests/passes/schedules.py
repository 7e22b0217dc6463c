"""Random schedules for Hypothesis."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from passes.plan import Level, StackPlan, grouped


@st.composite
def stack_plans(draw: st.DrawFn, terms: int | None = None) -> StackPlan:
    """Any schedule that a network can run: each term is deleted or in a chain of a level."""
    count = draw(st.integers(1, 8)) if terms is None else terms
    places: dict[int, dict[int, list[int]]] = {}
    for term in range(count):
        level = draw(st.integers(-1, count - 1))
        if level >= 0:
            places.setdefault(level, {}).setdefault(draw(st.integers(0, 2)), []).append(term)
    levels = [
        Level(tuple(tuple(chain) for chain in draw(st.permutations(sorted(p.values()))))) for p in places.values()
    ]
    return StackPlan(count, tuple(sorted(levels, key=lambda level: level.terms[0])))


@st.composite
def form_plans(draw: st.DrawFn, terms: int, period: int) -> StackPlan:
    """A schedule in a form that has a name, of blocks of `period` terms, or any; some terms deleted or none."""
    form = draw(st.sampled_from(("sublayer", "sublayer", "block", "gpt-j", "gpt-j", "any")))
    if form == "any":
        return draw(stack_plans(terms))
    blocks = [tuple(range(first, first + period)) for first in range(0, terms, period)]
    if form == "gpt-j":
        runs = draw(_runs(range(terms)))
        plan = StackPlan(terms, tuple(Level(tuple((term,) for term in run)) for run in runs))
    else:
        plan = grouped(terms, draw(_runs(blocks)), "block" if form == "block" else "sublayer")
    deleted = draw(st.one_of(st.just(set()), st.just(set()), st.sets(st.integers(0, terms - 1), max_size=2)))
    return _without(plan, deleted)


@st.composite
def _runs(draw: st.DrawFn, items: Sequence[object]) -> list[list[object]]:
    """The items cut into runs of neighbours."""
    runs = [[items[0]]]
    for item in items[1:]:
        if draw(st.integers(0, 2)):
            runs[-1].append(item)
        else:
            runs.append([item])
    return runs


def _without(plan: StackPlan, deleted: set[int]) -> StackPlan:
    """The plan without some terms, its levels in the order of their first terms."""
    chains = [
        [kept for chain in level.chains if (kept := tuple(term for term in chain if term not in deleted))]
        for level in plan.levels
    ]
    levels = [Level(tuple(level)) for level in chains if level]
    return StackPlan(plan.terms, tuple(sorted(levels, key=lambda level: level.terms[0])))
