"""Segments: given these values, compute those, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from passes.errors import PassError
from passes.graph.outputs import flat_leaves
from passes.graph.segment import extract
from passes.stacks.find import find_stacks
from tests.passes.models import (
    WIDTH,
    Function,
    fixed_graph_of,
    images,
    mlps,
    randomised,
    relative_error,
    tokens,
    vision,
)


def _inputs(graph: fx.GraphModule) -> list[fx.Node]:
    return list(graph.graph.find_nodes(op="placeholder"))


def test_a_segment_computes_the_wanted_values_from_the_given_ones() -> None:
    model, graph = vision()
    (stack,) = find_stacks(graph).stacks
    block = extract(graph, [*_inputs(graph), stack.entry], [stack.terms[0].result, stack.terms[1].result])
    x = model.embed(images())
    with torch.no_grad():
        after_attention = x + model.blocks[0].attention(model.blocks[0].norm1(x))  # type: ignore[operator, union-attr]
        after_block = model.blocks[0](x)
        first, second = block(images(), x)
    assert relative_error(first, after_attention) < 1e-14
    assert relative_error(second, after_block) < 1e-14


def test_a_segment_from_the_inputs_to_the_outputs_is_the_model() -> None:
    model, graph = vision()
    whole = extract(graph, _inputs(graph), flat_leaves(graph))
    assert torch.equal(whole(images())[0], model(images()))


def test_only_what_is_wanted_is_computed_and_only_its_parameters_are_kept() -> None:
    _, graph = mlps(6)
    terms = find_stacks(graph).stacks[0].terms
    piece = extract(graph, [terms[2].skip], [terms[2].output])
    assert sum(node.op == "call_function" for node in piece.graph.nodes) == len(terms[2].inner)
    assert {name.split(".")[1] for name, _ in piece.named_parameters()} == {"2"}


def test_parameters_are_shared_with_the_source() -> None:
    _, graph = mlps(6)
    terms = find_stacks(graph).stacks[0].terms
    source = dict(graph.named_parameters())
    piece = extract(graph, [terms[1].skip], [terms[2].result])
    assert len(list(piece.parameters())) == 12
    assert all(parameter is source[name] for name, parameter in piece.named_parameters())


def test_the_source_is_not_changed() -> None:
    _, graph = mlps(6)
    before = str(graph.graph)
    terms = find_stacks(graph).stacks[0].terms
    extract(graph, [terms[1].skip], [terms[2].result])
    assert str(graph.graph) == before


def test_a_given_value_may_be_wanted() -> None:
    _, graph = mlps(6)
    terms = find_stacks(graph).stacks[0].terms
    x = tokens()
    same, after = extract(graph, [terms[1].skip], [terms[1].skip, terms[1].result])(x)
    assert torch.equal(same, x)
    assert not torch.equal(after, x)


def test_given_values_that_are_not_needed_are_still_taken() -> None:
    _, graph = mlps(6)
    terms = find_stacks(graph).stacks[0].terms
    piece = extract(graph, [*_inputs(graph), terms[3].skip], [terms[3].result])
    alone = extract(graph, [terms[3].skip], [terms[3].result])
    assert torch.equal(piece(torch.zeros(1), tokens())[0], alone(tokens())[0])


def test_of_a_node_given_twice_the_last_value_counts() -> None:
    _, graph = mlps(6)
    terms = find_stacks(graph).stacks[0].terms
    assert terms[0].skip is _inputs(graph)[0]
    piece = extract(graph, [*_inputs(graph), terms[0].skip], [terms[0].result])
    alone = extract(graph, [terms[0].skip], [terms[0].result])
    assert torch.equal(piece(tokens(seed=5), tokens())[0], alone(tokens())[0])


def test_an_input_of_the_model_that_the_segment_needs_must_be_given() -> None:
    def forward(self: Function, x: Tensor, gate: Tensor) -> Tensor:
        x = x + self.a(x * gate)
        y: Tensor = x + self.b(x * gate)
        return y

    model = Function(forward, a=nn.Linear(WIDTH, WIDTH), b=nn.Linear(WIDTH, WIDTH))
    graph = fixed_graph_of(randomised(model), tokens(), tokens())
    term = find_stacks(graph).stacks[0].terms[1]
    with pytest.raises(PassError, match=r"^The segment needs the input inputs_1\.$") as caught:
        extract(graph, [term.skip], [term.result])
    assert caught.value.hint == "Hand it in among the given nodes."
    x, gate = tokens(), tokens(seed=2)
    (result,) = extract(graph, [*term.sides, term.skip], [term.result])(gate, x)
    assert relative_error(result, x + model.b(x * gate)) < 1e-14


def test_metadata_of_the_given_nodes_stays() -> None:
    _, graph = mlps(6)
    term = find_stacks(graph).stacks[0].terms[3]
    (placeholder,) = _inputs(extract(graph, [term.skip], [term.result]))
    assert placeholder.meta["val"] is term.skip.meta["val"]
