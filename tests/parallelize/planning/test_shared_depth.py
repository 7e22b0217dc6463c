"""Sharing a depth among stacks: against brute force over every graph of a few stacks."""

from __future__ import annotations

import itertools

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallelize.planning import shared_depth
from parallelize.planning.shared_depth import share_depth

Options = list[dict[int, tuple[float, str]]]


@st.composite
def _graphs(draw: st.DrawFn, most: int = 5) -> tuple[nx.DiGraph, Options]:
    """A graph of stacks, reduced, numbered in any order, and options with ties among their costs."""
    count = draw(st.integers(0, most))
    names = draw(st.permutations(range(count)))
    pairs = list(itertools.combinations(range(count), 2))
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    full = nx.DiGraph()
    full.add_nodes_from(range(count))
    full.add_edges_from((names[a], names[b]) for a, b in edges)
    order = nx.transitive_reduction(full)
    costs = st.integers(0, 3) | st.floats(0, 10)
    depths = st.lists(st.integers(1, 5), min_size=1, max_size=3, unique=True)
    options = [{d: (draw(costs), f"{number} at {d}") for d in draw(depths)} for number in range(count)]
    return order, options


def _longest(order: nx.DiGraph, depths: tuple[int, ...]) -> int:
    weighted = nx.DiGraph()
    weighted.add_nodes_from(f"{n} {end}" for n in order for end in ("in", "out"))
    weighted.add_weighted_edges_from((f"{n} in", f"{n} out", depths[n]) for n in order)
    weighted.add_weighted_edges_from((f"{a} out", f"{b} in", 0) for a, b in order.edges)
    return int(nx.dag_longest_path_length(weighted)) if depths else 0


@settings(deadline=None, max_examples=200)
@given(problem=_graphs())
def test_every_depth_has_the_cheapest_choice_of_brute_force(problem: tuple[nx.DiGraph, Options]) -> None:
    order, options = problem
    cheapest: dict[int, float] = {}
    for depths in itertools.product(*options):
        total = sum(stack[depth][0] for stack, depth in zip(options, depths, strict=True))
        longest = _longest(order, depths)
        cheapest[longest] = min(total, cheapest.get(longest, float("inf")))
    found = share_depth(order, options)
    assert found.keys() == cheapest.keys()
    for depth, (cost, chosen) in found.items():
        assert cost == pytest.approx(cheapest[depth])
        depths = tuple(int(name.split(" at ")[1]) for name in chosen)
        assert [name.split(" at ")[0] for name in chosen] == [str(n) for n in range(len(options))]
        assert _longest(order, depths) == depth


def test_stacks_side_by_side_share_one_time_however_many_there_are() -> None:
    order = nx.empty_graph(30, create_using=nx.DiGraph)
    options = [{depth: (1.0 / depth, depth) for depth in range(1, 13)} for _ in range(30)]
    found = share_depth(order, options)
    assert sorted(found) == list(range(1, 13))
    assert found[4] == (pytest.approx(30 / 4), (4,) * 30)


def test_of_equal_costs_the_deepest_is_taken() -> None:
    order = nx.empty_graph(2, create_using=nx.DiGraph)
    found = share_depth(order, [{1: (0.0, 1), 2: (0.0, 2), 3: (0.0, 3)}, {1: (0.0, 1), 2: (0.0, 2)}])
    assert found[3] == (0.0, (3, 2))
    assert found[2] == (0.0, (2, 2))


def test_a_graph_with_too_many_times_still_gives_choices_of_the_depth_that_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared_depth, "MOST_STATES", 4)
    order = nx.DiGraph([(0, 3), (1, 3), (1, 4), (2, 4)])  # neither in series nor side by side
    options = [{depth: (float(5 - depth), depth) for depth in range(1, 5)} for _ in range(5)]
    found = share_depth(order, options)
    assert found
    for depth, (cost, chosen) in found.items():
        assert _longest(order, chosen) == depth
        assert cost == sum(5 - each for each in chosen)
