"""Shapes: remembered answers are right, and what more than shapes decide is not remembered."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from passes.clean.remove_identities import RemoveIdentities
from passes.errors import PassError
from passes.graph.editing import clone, finish
from passes.graph.operators import LINEAR, aten
from passes.graph.shapes import Shapes, propagate_shapes
from passes.runner import run_passes
from tests.passes.models import WIDTH, Function, Mlp, graph_of, mlps, normal, randomised, tokens, vision, wrong_metadata


def known(module: fx.GraphModule) -> Shapes:
    (found,) = [value for value in module.meta.values() if isinstance(value, Shapes)]
    return found


def counted(module: fx.GraphModule, monkeypatch: Any) -> list[str]:
    """The operators whose shapes are computed, not remembered, when the shapes of `module` are propagated."""
    computed: list[str] = []
    original = fx.Interpreter.call_function

    def call_function(self: fx.Interpreter, target: Any, args: Any, kwargs: Any) -> Any:
        computed.append(str(target))
        return original(self, target, args, kwargs)

    monkeypatch.setattr(fx.Interpreter, "call_function", call_function)
    propagate_shapes(module)
    monkeypatch.undo()
    return computed


def test_equal_blocks_are_computed_once(monkeypatch: Any) -> None:
    one, many = (counted(clone(mlps(count)[1]), monkeypatch) for count in (1, 6))
    assert one
    assert many == one


def test_a_clone_asks_nothing_again(monkeypatch: Any) -> None:
    first = clone(mlps(2)[1])
    propagate_shapes(first)
    assert counted(clone(first), monkeypatch) == []


def test_another_width_is_another_answer() -> None:
    model = Function(lambda self, x: self.a(x) + self.b(x), a=Mlp(hidden=6), b=Mlp(hidden=10))
    graph = clone(graph_of(randomised(model), tokens()))
    propagate_shapes(graph)
    propagate_shapes(graph)
    assert wrong_metadata(graph, tokens()) == []


def test_remembered_shapes_are_right_where_a_pass_changed_the_arguments() -> None:
    graph = graph_of(randomised(Function(lambda self, x: self.a(x).transpose(1, 2), a=Mlp())), tokens())
    edited = clone(finish(clone(graph)))
    (transposed,) = [node for node in edited.graph.nodes if node.target == aten.transpose.int]
    transposed.args = (transposed.args[0], 0, 2)
    assert wrong_metadata(finish(edited), tokens()) == []


def test_a_free_batch_stays_free_in_remembered_shapes() -> None:
    module, _ = run_passes(vision()[1], [RemoveIdentities(), RemoveIdentities()])
    linear = next(node for node in module.graph.nodes if node.target == LINEAR)
    assert isinstance(linear.meta["val"].shape[0], torch.SymInt)


def test_a_size_that_the_data_decide_is_a_new_one_each_time() -> None:
    graph = graph_of(Function(lambda self, x: (x.nonzero(), (x + 0).nonzero())).eval(), normal(3, WIDTH))
    propagate_shapes(graph)
    first, second = (node.meta["val"] for node in graph.graph.nodes if node.target == aten.nonzero.default)
    assert str(first.shape[0]) != str(second.shape[0])
    assert not any(isinstance(key, tuple) and key[0] == aten.nonzero.default for key in known(graph).values)


def test_answers_do_not_go_with_a_copy_whose_example_values_are_others() -> None:
    graph = clone(mlps(1)[1])
    propagate_shapes(graph)
    assert known(graph).values
    assert not copy.deepcopy(known(graph)).values
    assert not pickle.loads(pickle.dumps(known(graph))).values


def test_a_module_with_remembered_shapes_can_be_pickled() -> None:
    graph = clone(mlps(1)[1])
    propagate_shapes(graph)
    assert torch.equal(pickle.loads(pickle.dumps(graph))(tokens()), graph(tokens()))


def test_a_parameter_keeps_the_metadata_of_its_own_dtype() -> None:
    model = Function(lambda self, x: x + self.one + self.two)
    model.one = torch.nn.Parameter(torch.ones(WIDTH, dtype=torch.float32))
    model.two = torch.nn.Parameter(torch.ones(WIDTH, dtype=torch.float64))
    graph = graph_of(model.eval(), tokens())
    propagate_shapes(graph)
    values: list[Tensor] = [node.meta["val"] for node in graph.graph.find_nodes(op="get_attr")]
    assert {value.dtype for value in values} == {torch.float32, torch.float64}


def test_shapes_of_a_graph_without_example_values_cannot_be_propagated() -> None:
    graph = fx.symbolic_trace(nn.Sequential(nn.Linear(WIDTH, WIDTH)))
    with pytest.raises(PassError, match=r"^The graph's inputs carry no example values\.$") as caught:
        propagate_shapes(graph)
    assert "parallelize.capture" in caught.value.hint


def test_propagated_shapes_keep_the_free_batch() -> None:
    copied = clone(vision()[1])
    for node in copied.graph.nodes:
        if node.op == "call_function":
            del node.meta["val"]
    propagate_shapes(copied)
    for node, original in zip(copied.graph.nodes, vision()[1].graph.nodes, strict=True):
        expected = original.meta["val"]
        if node.op == "call_function" and isinstance(expected, Tensor):
            assert str(node.meta["val"].shape) == str(expected.shape)
            assert node.meta["val"].dtype == expected.dtype


def test_shapes_of_free_size_go_through_operators_whose_shape_rule_is_written_in_python() -> None:
    graph = graph_of(Function(lambda self, x: torch.baddbmm(x[:, :1], x, x)).eval(), normal(3, WIDTH, WIDTH))
    (product,) = graph.graph.find_nodes(op="call_function", target=aten.baddbmm.default)
    product.update_kwarg("beta", 0.5)  # a call that the exporter has not seen
    propagate_shapes(graph)
    assert wrong_metadata(graph, normal(5, WIDTH, WIDTH)) == []
