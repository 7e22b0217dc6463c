"""Random schedules for Hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from passes.plan import Level, StackPlan


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
