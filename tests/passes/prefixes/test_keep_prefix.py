"""A prefix is the network whose last level adds up its first branches, in float64 and at any batch."""

from __future__ import annotations

import pytest
import torch

from passes.errors import ParallelizeError
from passes.graph.outputs import flat_outputs
from passes.prefixes.keep_prefix import KeepPrefix
from passes.registry import FUSION
from passes.runner import run_passes
from tests.passes.models import EXACT, mlps, relative_error, run, targets, text, wrong_metadata
from tests.passes.prefixes.levels import CASES, case


@pytest.mark.parametrize("name", CASES)
def test_a_prefix_answers_as_the_network_of_its_branches(name: str) -> None:
    network = case(name)
    branches = network.branches - 1
    graph, _ = run(network.graph, KeepPrefix(branches))
    fused, _ = run_passes(graph, FUSION)
    for batch in (1, 3):
        inputs = network.feed(batch)
        with torch.no_grad():
            expected = network.answers(*inputs)[branches - 1]
        assert relative_error(flat_outputs(graph, inputs)[0], expected) <= EXACT
        assert relative_error(flat_outputs(fused, inputs)[0], expected) <= EXACT
        assert wrong_metadata(fused, *inputs) == []


def test_branches_that_go_are_not_computed() -> None:
    graph = case("added").graph
    operators = [len(targets(run(graph, KeepPrefix(count))[0])) for count in (1, 2, 4)]
    assert operators == sorted(set(operators))


def test_the_prefix_of_all_branches_is_the_graph() -> None:
    network = case("chains")
    graph, record = run(network.graph, KeepPrefix(network.branches))
    assert (text(graph), record.matches) == (text(network.graph), ())


def test_keeping_the_same_branches_again_changes_nothing() -> None:
    once, record = run(case("added").graph, KeepPrefix(2))
    assert [match.split(": ")[1] for match in record.matches] == ["2 of 4 branches"]
    assert text(run(once, KeepPrefix(2))[0]) == text(once)


def test_a_network_without_a_level_is_refused() -> None:
    with pytest.raises(ParallelizeError, match="no level of several branches"):
        run(mlps()[1], KeepPrefix(1))


def test_a_number_that_there_is_not_is_refused() -> None:
    with pytest.raises(ParallelizeError, match="no prefix of 5 branches"):
        run(case("chains").graph, KeepPrefix(5))
