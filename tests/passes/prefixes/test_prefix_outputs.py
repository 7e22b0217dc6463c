"""One run returns what every prefix answers: branches run once and wide, and so does what comes after them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from parallelize.models.capture import capture
from parallelize.models.clean import clean
from passes.errors import ParallelizeError
from passes.graph.operators import NORMS, gemms
from passes.graph.outputs import flat_leaves, flat_outputs
from passes.prefixes.keep_prefix import KeepPrefix
from passes.prefixes.prefix_outputs import PrefixOutputs, returns_of
from passes.registry import FUSION
from passes.runner import run_passes
from tests.passes.models import (
    EXACT,
    WIDTH,
    Function,
    Mlp,
    mlps,
    randomised,
    relative_error,
    run,
    tokens,
    wrong_metadata,
)
from tests.passes.prefixes.levels import CASES, case, fused, with_outputs


def _names(graph: fx.GraphModule) -> list[str]:
    (end,) = graph.graph.find_nodes(op="output")
    return list(end.args[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CASES)
def test_every_prefix_is_answered_and_the_last_one_is_the_network(name: str) -> None:
    network, graphs = case(name), with_outputs(name)
    assert _names(graphs[1]) == [f"y_prefix_{count}" for count in range(1, network.branches + 1)]
    for batch in (1, 3):
        inputs = network.feed(batch)
        with torch.no_grad():
            expected = network.answers(*inputs)
        for graph in graphs:
            found = flat_outputs(graph, inputs)
            assert max(map(relative_error, found, expected)) <= EXACT
        assert relative_error(found[-1], flat_outputs(network.graph, inputs)[0]) <= EXACT
        assert wrong_metadata(graphs[1], *inputs) == []


@pytest.mark.parametrize("name", [pytest.param("summed", marks=pytest.mark.slow), "mean"])
def test_chosen_prefixes_are_those_that_are_kept_alone(name: str) -> None:
    network = case(name)
    graph = fused(run(network.graph, PrefixOutputs((1, 3), ("y",)))[0])
    inputs = network.feed(3)
    for found, count in zip(flat_outputs(graph, inputs), (1, 3), strict=True):
        alone = run(network.graph, KeepPrefix(count))[0]
        assert relative_error(found, flat_outputs(alone, inputs)[0]) <= EXACT


@pytest.mark.parametrize("name", ["added", "pictures"])
def test_all_prefixes_take_as_many_products_and_weights_as_the_network(name: str) -> None:
    whole, graph = run_passes(case(name).graph, FUSION)[0], with_outputs(name)[1]
    products = [sum(map(gemms, each.graph.nodes)) for each in (graph, whole)]
    norms = [sum(node.target in NORMS for node in each.graph.nodes) for each in (graph, whole)]
    weights = [sum(value.numel() for value in each.parameters()) for each in (graph, whole)]
    assert (products[0], norms[0]) == (products[1], norms[1])
    assert weights[0] <= 1.1 * weights[1]  # biases of the last products, which the network adds up beforehand


def _two_outputs(self: nn.Module, x: Tensor) -> dict[str, Tensor]:
    y = x + self.a(x) + self.b(x)  # type: ignore[operator]
    return {"logits": self.head(y), "start": x * 2, "state": y}  # type: ignore[operator]


def test_an_output_that_no_branch_changes_is_returned_once() -> None:
    model = randomised(Function(_two_outputs, a=Mlp(), b=Mlp(), head=nn.Linear(WIDTH, 3)))
    graph = clean(capture(model, (tokens(),)))[0].module
    assert returns_of(graph) == (True, False, True)
    made = fused(run(graph, PrefixOutputs((1, 2), ("logits", "start", "state")))[0])
    names = ["logits_prefix_1", "logits_prefix_2", "start", "state_prefix_1", "state_prefix_2"]
    assert _names(made) == names
    x = tokens()
    with torch.no_grad():
        expected = [model.head(x + model.a(x)), *_two_outputs(model, x).values(), x + model.a(x)]
    found = dict(zip(names, flat_outputs(made, [x]), strict=True))
    order = ["logits_prefix_1", "logits_prefix_2", "start", "state_prefix_2", "state_prefix_1"]
    assert max(relative_error(found[name], value) for name, value in zip(order, expected, strict=True)) <= EXACT


def test_what_has_outputs_of_prefixes_is_refused() -> None:
    network = case("chains")
    graph, record = run(network.graph, PrefixOutputs((1, 2), ("y",)))
    assert [match.split(": ")[1] for match in record.matches] == ["outputs of 2 prefixes of 2 branches"]
    with pytest.raises(ParallelizeError, match="returns the outputs of its prefixes already"):
        run(graph, PrefixOutputs((1,), tuple(f"y{number}" for number in range(len(flat_leaves(graph))))))


def test_a_network_without_a_level_and_a_number_that_there_is_not_are_refused() -> None:
    with pytest.raises(ParallelizeError, match="no level of several branches"):
        run(mlps()[1], PrefixOutputs((1,), ("y",)))
    with pytest.raises(ParallelizeError, match="no prefix of 9 branches"):
        run(case("added").graph, PrefixOutputs((1, 9), ("y",)))
