"""What rules share: arguments as nodes and numbers, and operands as one wide value or a sentence why not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx

from passes.fusion.emitter import Branches, Emitter
from passes.fusion.layout import Apart, CannotLiftError, Pieces, Shared, Stored, Wide
from passes.fusion.rule import again, along, in_channels, number, operand, shape_of, wide_operand
from passes.graph.operators import aten
from tests.passes.drawn import drawn, inputs_of, result
from tests.passes.models import Function, graph_of, normal

COUNT = 2


def _emitter(graph: fx.GraphModule) -> Emitter:
    node = result(graph)
    branches = Branches(((node,),) * COUNT, ((node,),) * COUNT, frozenset({node}))
    return Emitter(graph, branches, graph.graph.output_node(), {})


def _value(emitter: Emitter, node: fx.Node, *inputs: Tensor) -> Tensor:
    emitter.before.args = (node,)
    emitter.commit()
    made: Tensor = fx.Interpreter(emitter.module).run(*inputs)
    return made


def test_arguments_are_nodes_and_numbers_that_are_known() -> None:
    graph = drawn(lambda x: x.transpose(1, -1), normal(2, 3, 4))
    node = result(graph)
    assert [operand(node)] == inputs_of(graph)
    assert (number(node, 1), number(node, 2), number(node, 3, 7)) == (1, -1, 7)
    assert shape_of(node) == (2, 4, 3)


def test_a_number_that_is_known_when_the_model_runs_alone_is_refused() -> None:
    graph = graph_of(Function(lambda _, x: torch.narrow(x, 0, x.shape[0] // 2, 1)).eval(), normal(4, 3))
    node = next(n for n in graph.graph.nodes if n.target in (aten.narrow.default, aten.slice.Tensor))
    with pytest.raises(
        CannotLiftError, match=rf"^{node.name} \({node.target}\) reads the number .* only when the model"
    ):
        number(node, 2)


def test_a_node_of_several_tensors_has_no_shape() -> None:
    graph = drawn(lambda x: x.chunk(2, -1)[0], normal(2, 4))
    chunk = operand(result(graph))
    with pytest.raises(CannotLiftError, match=r"^chunk \(aten\.chunk\.default\) does not compute one tensor$"):
        shape_of(chunk)


def test_an_operand_is_wide_be_it_shared_stored_or_wide() -> None:
    graph = drawn(torch.sin, normal(2, 3))
    (x,), node, emitter = inputs_of(graph), result(graph), _emitter(graph)
    wide = Wide(x, -1, 1, (2, 3))
    assert wide_operand(emitter, node, {x: wide}) is wide
    shared = wide_operand(emitter, node, {x: Shared(x)})
    assert shared.layout == (-2, 1)
    assert torch.equal(_value(emitter, shared.node, normal(2, 3)), torch.cat([normal(2, 3)] * 2))
    tensors = normal(2, 3, seed=5), normal(2, 3, seed=6)
    stored = wide_operand(emitter, node, {x: Stored(tensors)})
    assert torch.equal(_value(emitter, stored.node, normal(2, 3)), torch.cat(tensors))


def test_an_operand_in_pieces_and_parameters_without_dimensions_are_refused() -> None:
    graph = drawn(torch.sin, torch.tensor(1.0))
    (x,), node, emitter = inputs_of(graph), result(graph), _emitter(graph)
    for value in (Pieces(x, -1, 1), Stored((torch.tensor(1.0), torch.tensor(2.0))), Apart((x, x))):
        with pytest.raises(
            CannotLiftError, match=r"^sin \(aten\.sin\.default\) reads \w+, which the branches hold apart$"
        ):
            wide_operand(emitter, node, {x: value})


def test_an_operator_along_a_dimension_has_its_branches_in_another() -> None:
    graph = drawn(lambda x: x.cumsum(-1), normal(2, 3))
    (x,), node, emitter = inputs_of(graph), result(graph), _emitter(graph)
    branches = normal(2, 3, seed=5), normal(2, 3, seed=6)
    value = along(emitter, node, {x: Wide(x, -1, 1, (2, 3))}, [-1])
    assert value.layout == (-2, 1)
    made = again(emitter, node, value, {})
    assert (made.layout, made.shape) == ((-2, 1), (2, 3))
    expected = torch.cat([branch.cumsum(-1) for branch in branches])
    assert torch.equal(_value(emitter, made.node, torch.cat(branches, -1)), expected)


def test_channels_hold_the_branches_where_an_operator_wants_them_there() -> None:
    graph = drawn(torch.sin, normal(2, 4, 3))
    (x,), node, emitter = inputs_of(graph), result(graph), _emitter(graph)
    image = normal(2, 4, 3, seed=5)
    shared = in_channels(emitter, node, {x: Shared(x)}, outer=2)
    assert shared.layout == (-2, 2)
    halves = image.chunk(2, 1)
    expected = torch.cat([halves[0], halves[0], halves[1], halves[1]], 1)
    assert torch.equal(_value(emitter, shared.node, image), expected)
    moved = in_channels(emitter, node, {x: Wide(x, -3, 1, (2, 4, 3))})
    both = torch.cat([image, -image])
    assert torch.equal(_value(emitter, moved.node, both), torch.cat([image, -image], 1))
    with pytest.raises(CannotLiftError, match="which the branches hold apart"):
        in_channels(emitter, node, {x: Pieces(x, -1, 1)})
