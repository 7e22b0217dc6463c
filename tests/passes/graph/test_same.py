"""Two graphs are the same where every node is: operators, values, numbers, and the very tensors that are read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import fx

from passes.graph.editing import clone
from passes.graph.operators import aten
from passes.graph.parameters import read_parameter, replace_parameter
from passes.graph.same import is_same
from tests.parallelize.small_models import vision


def _linear(module: fx.GraphModule) -> fx.Node:
    return next(node for node in module.graph.nodes if node.target is aten.linear.default)


def _other_weight(module: fx.GraphModule) -> None:
    node = _linear(module)
    assert isinstance(node.args[1], fx.Node)
    replace_parameter(module, node, 1, "other", read_parameter(module, node.args[1]).clone())


def _other_number(module: fx.GraphModule) -> None:
    node = next(node for node in module.graph.nodes if node.target is aten.layer_norm.default)
    node.update_arg(4, 1e-3)


def _other_operand(module: fx.GraphModule) -> None:
    node = [node for node in module.graph.nodes if node.target is aten.add.Tensor][-1]
    node.args = (node.args[1], node.args[0])


def _other_operator(module: fx.GraphModule) -> None:
    next(node for node in module.graph.nodes if node.target is aten.gelu.default).target = aten.relu.default


def _one_more(module: fx.GraphModule) -> None:
    node = _linear(module)
    with module.graph.inserting_after(node):
        module.graph.call_function(aten.relu.default, (node,))


def test_a_graph_is_its_clone_whatever_its_nodes_are_called() -> None:
    copied = clone(vision(2).module)
    _linear(copied)._rename("renamed")
    assert is_same(vision(2).module, copied)


@pytest.mark.parametrize("edit", [_other_weight, _other_number, _other_operand, _other_operator, _one_more])
def test_whatever_is_edited_makes_another_graph(edit: Callable[[fx.GraphModule], None]) -> None:
    copied = clone(vision(2).module)
    edit(copied)
    assert not is_same(vision(2).module, copied)


def test_models_of_other_weights_or_depth_differ() -> None:
    assert not is_same(vision(2).module, vision(2, seed=1).module)
    assert not is_same(vision(2).module, vision(4).module)
