"""Merge-pieces: a tensor that was cut apart and put together again is the tensor."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx

from passes.clean.merge_pieces import MergePieces
from passes.clean.normalize_adds import NormalizeAdds
from passes.runner import run_passes
from passes.stacks.find import find_stacks
from tests.passes.models import (
    WIDTH,
    Function,
    Mlp,
    graph_of,
    normal,
    randomised,
    relative_error,
    run,
    text,
    wrong_metadata,
)

aten = torch.ops.aten

Forward = Callable[[Tensor], Tensor]

WHOLE: dict[str, Forward] = {
    "slices": lambda x: torch.cat([x[:, :2], x[:, 2:]], 1),
    "slices counted from the end": lambda x: torch.cat([x[:, :-2], x[:, -2:]], 1),
    "slices of the last axis": lambda x: torch.cat([x[..., :3], x[..., 3:5], x[..., 5:]], -1),
    "slices of the batch": lambda x: torch.cat([x[:1], x[1:]]),
    "narrow": lambda x: torch.cat([x.narrow(1, 0, 2), x.narrow(1, 2, 4)], 1),
    "chunk": lambda x: torch.cat(x.chunk(3, 1), 1),
    "split": lambda x: torch.cat(x.split(4, 1), 1),
    "split by sizes": lambda x: torch.cat(x.split([1, 5], 1), 1),
    "tensor_split": lambda x: torch.cat(x.tensor_split(4, -1), -1),
    "a split and slices": lambda x: torch.cat([x[:, :2], *x[:, 2:].chunk(2, 1)], 1),
    "unbind and stack": lambda x: torch.stack(x.unbind(1), 1),
    "selected and stacked": lambda x: torch.stack([x[:, i] for i in range(6)], 1),
    "a whole slice": lambda x: torch.cat([x[:, 0:]], 1),
}


def _graph(forward: Forward) -> fx.GraphModule:
    return graph_of(Function(lambda self, x: torch.tanh(forward(torch.exp(x)))).eval(), normal(3, 6, WIDTH))


@pytest.mark.parametrize("name", WHOLE)
def test_pieces_put_together_are_the_tensor(name: str) -> None:
    graph = _graph(WHOLE[name])
    merged, record = run(graph, MergePieces(), normal(3, 6, WIDTH))
    targets = [node.target for node in merged.graph.nodes if node.op == "call_function"]
    assert targets == [aten.exp.default, aten.tanh.default]
    assert record.error == 0
    assert wrong_metadata(merged, normal(2, 6, WIDTH)) == []
    again, record = run(merged, MergePieces())
    assert record.matches == ()
    assert text(again) == text(merged)


@pytest.mark.parametrize(
    "forward",
    [
        pytest.param(lambda x: torch.cat([x[:, :2], x[:, 3:]], 1), id="gap"),
        pytest.param(lambda x: torch.cat([x[:, :3], x[:, 2:]], 1), id="overlap"),
        pytest.param(lambda x: torch.cat([x[:, 2:], x[:, :2]], 1), id="other order"),
        pytest.param(lambda x: torch.cat([x[:, ::2], x[:, 1::2]], 1), id="steps"),
        pytest.param(lambda x: torch.cat([x[:, :3], x[:, 3:]], 0), id="other axis"),
        pytest.param(lambda x: torch.cat([x[:, :3], x.exp()[:, 3:]], 1), id="other tensor"),
        pytest.param(lambda x: torch.cat([x[:, :2], x[:, 2:4]], 1), id="end missing"),
        pytest.param(lambda x: torch.stack([x[:, i] for i in range(6)], 2), id="stacked on another axis"),
        pytest.param(lambda x: torch.stack([x[:, i] for i in (1, 0, 2, 3, 4, 5)], 1), id="stacked in another order"),
        pytest.param(lambda x: torch.cat([x, x], 1)[:, 2:8], id="across two operands"),
    ],
)
def test_other_concatenations_stay(forward: Forward) -> None:
    graph = _graph(forward)
    kept, record = run(graph, MergePieces(), normal(3, 6, WIDTH))
    assert record.skipped == ()
    assert not any(match.startswith(("cat", "stack")) for match in record.matches)
    joined = [aten.cat.default, aten.stack.default]
    assert [n.target for n in kept.graph.nodes if n.target in joined] == [
        n.target for n in graph.graph.nodes if n.target in joined
    ]


def test_a_piece_of_a_concatenation_is_its_operand() -> None:
    graph = _graph(lambda x: (y := torch.cat([x, x.sin(), x.cos()], 1))[:, 6:12] + y[:, 12:] + y.chunk(3, 1)[0])
    merged, record = run(graph, MergePieces(), normal(3, 6, WIDTH))
    assert record.error == 0
    assert aten.cat.default not in {node.target for node in merged.graph.nodes}


def test_pieces_among_other_operands_become_one_operand() -> None:
    graph = _graph(lambda x: torch.cat([x.sin(), x[:, :2], x[:, 2:], x.cos()], 1))
    merged, record = run(graph, MergePieces(), normal(3, 6, WIDTH))
    (cat,) = merged.graph.find_nodes(op="call_function", target=aten.cat.default)
    assert len(cat.args[0]) == 3
    assert record.error == 0


def test_a_tensor_that_lies_otherwise_in_memory_is_left_with_the_reason() -> None:
    graph = _graph(lambda x: torch.cat([(y := x.transpose(1, 2))[:, :2], y[:, 2:]], 1).view(-1, 6))
    (view,) = graph.graph.find_nodes(op="call_function", target=aten.reshape.default)
    view.target = aten.view.default  # capturing makes reshapes of views
    _, record = run(graph, MergePieces(), normal(3, 6, WIDTH))
    assert [skip.reason for skip in record.skipped] == ["cat is transpose, which does not lie row by row in memory"]


def test_a_tensor_that_lies_otherwise_in_memory_is_taken_whole_where_no_view_rests_on_it() -> None:
    graph = _graph(lambda x: torch.cat([(y := x.transpose(1, 2))[:, :2], y[:, 2:]], 1).sin())
    merged, record = run(graph, MergePieces(), normal(3, 6, WIDTH))
    assert record.error == 0
    assert aten.cat.default not in {node.target for node in merged.graph.nodes}


@pytest.mark.parametrize("free", [False, True], ids=["fixed sizes", "free sizes"])
def test_blocks_that_join_two_streams_and_part_them_are_one_stack(free: bool) -> None:
    def forward(self: Function, left: Tensor, right: Tensor) -> Tensor:
        for name in "abc":
            x = torch.cat([left, right], 1)
            x = x + getattr(self, name)(x)
            left, right = x[:, : left.shape[1]], x[:, left.shape[1] :]
        return right

    model = randomised(Function(forward, a=Mlp(), b=Mlp(), c=Mlp()))
    shapes = {"dynamic": [{0: "batch", 1: "left"}, {0: "batch", 1: "right"}]} if free else {}
    graph = graph_of(model, normal(3, 4, WIDTH), normal(3, 7, WIDTH), **shapes)
    merged, records = run_passes(graph, [MergePieces(), NormalizeAdds()], [normal(3, 4, WIDTH), normal(3, 7, WIDTH)])
    assert sum(match.startswith("cat") for match in records[0].matches) == 2
    assert [len(stack.terms) for stack in find_stacks(merged).stacks] == [3]
    inputs = (normal(2, 5, WIDTH), normal(2, 9, WIDTH)) if free else (normal(2, 4, WIDTH), normal(2, 7, WIDTH))
    assert relative_error(merged(*inputs), model(*inputs)) < 1e-12
