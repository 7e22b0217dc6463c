"""What every edit of a graph needs: copies, no dead code, an order, and an end that refuses what is no graph."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn

from passes.errors import PassError
from passes.graph.editing import clone, eliminate_dead_code, erase_unread, finish, refuse_writes, restore_order
from passes.graph.operators import ADD, LINEAR, aten
from tests.passes.drawn import calls, drawn, inputs_of
from tests.passes.models import (
    WIDTH,
    Function,
    fixed_graph_of,
    mlps,
    normal,
    randomised,
    text,
    tokens,
    vision,
)


def test_a_clone_shares_the_parameters_and_keeps_names_and_metadata() -> None:
    _, graph = vision()
    copied = clone(graph)
    assert text(copied) == text(graph)
    assert copied.graph is not graph.graph
    originals = dict(graph.named_parameters())
    assert {name: id(value) for name, value in copied.named_parameters()} == {n: id(v) for n, v in originals.items()}
    for node, copy in zip(graph.graph.nodes, copied.graph.nodes, strict=True):
        assert copy is not node
        assert copy.meta["val"] is node.meta["val"]


def test_an_edit_of_a_clone_does_not_reach_the_original() -> None:
    _, graph = mlps(2)
    before = text(graph)
    copied = clone(graph)
    next(node for node in copied.graph.nodes if node.target == ADD).update_kwarg("alpha", 2.0)
    assert text(graph) == before
    assert text(copied) != before


def test_a_clone_has_the_meta_of_the_module() -> None:
    graph = drawn(torch.sin, tokens())
    graph.meta["note"] = "kept"
    assert clone(graph).meta["note"] == "kept"


def test_a_clone_takes_and_returns_what_the_original_does() -> None:
    model = Function(lambda self, x: {"state": self.a(x), "norm": x.norm()}, a=nn.Linear(WIDTH, WIDTH))
    graph = fixed_graph_of(randomised(model), tokens())
    result = clone(graph)(tokens())
    assert result.keys() == {"state", "norm"}
    assert torch.equal(result["state"], graph(tokens())["state"])


def test_dead_code_goes_with_all_that_only_it_reads() -> None:
    _, graph = mlps(2)
    edited = clone(graph)
    (first, second) = [node for node in edited.graph.nodes if node.target == ADD]
    (output,) = edited.graph.find_nodes(op="output")
    output.replace_input_with(second, first)
    eliminate_dead_code(edited)
    assert len(edited.graph.nodes) == (len(graph.graph.nodes) - 2) // 2 + 2
    assert all("terms.1" not in str(node.target) for node in edited.graph.nodes)


def test_inputs_that_nobody_reads_stay() -> None:
    graph = fixed_graph_of(
        randomised(Function(lambda self, x, y: self.a(x), a=nn.Linear(WIDTH, WIDTH))), tokens(), tokens()
    )
    finished = finish(graph)
    assert [node.name for node in finished.graph.find_nodes(op="placeholder")] == ["inputs_0", "inputs_1"]
    assert torch.equal(finished(tokens(), tokens()), graph(tokens(), tokens()))


def test_finish_drops_parameters_that_no_node_reads() -> None:
    _, graph = mlps(2)
    edited = clone(graph)
    (first, second) = [node for node in edited.graph.nodes if node.target == ADD]
    (output,) = edited.graph.find_nodes(op="output")
    output.replace_input_with(second, first)
    finished = finish(edited)
    assert {name.split(".")[1] for name, _ in finished.named_parameters()} == {"0"}
    assert {name.split(".")[1] for name, _ in graph.named_parameters()} == {"0", "1"}


def test_finish_refuses_a_graph_whose_nodes_run_before_what_they_read() -> None:
    edited = clone(mlps(2)[1])
    linears = [node for node in edited.graph.nodes if node.target == LINEAR]
    linears[1].append(linears[0])
    with pytest.raises(RuntimeError, match="before it has been defined"):
        finish(edited)


def test_nodes_are_sorted_to_run_after_what_they_read_and_otherwise_as_they_were() -> None:
    graph = drawn(lambda x: (x.sin() + x.cos()).exp(), tokens())
    before, expected = text(graph), graph(tokens())
    restore_order(graph)
    assert text(graph) == before
    (add,) = calls(graph, ADD)
    inputs_of(graph)[0].prepend(add)
    restore_order(graph)
    graph.graph.lint()
    graph.recompile()
    assert [node.name for node in graph.graph.nodes] == ["x_1", "sin", "cos", "add", "exp", "output"]
    assert torch.equal(graph(tokens()), expected)


def test_a_node_that_reads_itself_has_no_order() -> None:
    graph = drawn(lambda x: x.sin().cos().exp(), tokens())
    (sin,), (exp,) = calls(graph, aten.sin.default), calls(graph, aten.exp.default)
    sin.args = (exp,)
    with pytest.raises(PassError, match=r"^\w+ is computed from itself\.$") as caught:
        restore_order(graph)
    assert "report it" in caught.value.hint


def test_a_long_chain_is_sorted_without_recursion() -> None:
    graph = fx.Graph()
    node = graph.placeholder("x")
    first = node
    for _ in range(1200):
        node = graph.call_function(aten.sin.default, (node,))
    graph.output(node)
    module = fx.GraphModule(nn.Module(), graph)
    node.append(first)
    restore_order(module)
    graph.lint()


def test_with_a_node_that_nothing_reads_goes_what_only_it_needs() -> None:
    gain = nn.Parameter(normal(WIDTH))
    graph = drawn(lambda x: (x.sin().cos() * gain, x.sin()), tokens())
    (product,) = calls(graph, aten.mul.Tensor)
    erase_unread(product)
    assert product in graph.graph.nodes  # it is returned
    kept = calls(graph, aten.sin.default)[1]
    graph.graph.output_node().args = ((kept,),)
    erase_unread(product)
    assert [node.name for node in graph.graph.nodes] == ["x_1", kept.name, "output"]


def test_a_write_is_refused_by_the_name_of_its_node_and_a_detachment_is_none() -> None:
    refuse_writes(drawn(lambda x: aten.detach_.default(x.sin()), tokens()))
    with pytest.raises(PassError, match=r"^relu_ \(aten\.relu_\.default\) writes in place") as caught:
        finish(drawn(lambda x: x.sin().relu_(), tokens()))
    assert "parallelize.capture" in caught.value.hint
