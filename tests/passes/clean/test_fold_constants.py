"""What depends on parameters alone is computed once; views stay views, and what is random or large stays."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.clean.fold_constants import FoldConstants
from passes.graph.parameters import read_parameter
from passes.runner import Skip
from tests.passes.models import (
    TOKENS,
    WIDTH,
    Function,
    graph_of,
    mlps,
    normal,
    randomised,
    relative_error,
    run,
    targets,
    text,
    tokens,
    wrong_metadata,
)

aten = torch.ops.aten


def _graph(function: Callable[..., Any], **parts: nn.Module | Tensor) -> fx.GraphModule:
    return graph_of(randomised(Function(function, **parts)), tokens())


def _weight_norm(self: Function, x: Tensor) -> Tensor:
    return F.linear(x, self.gain * self.direction / self.direction.norm(dim=1, keepdim=True))


class _Table(nn.Module):
    """A row of biases for each distance of two tokens, as in Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(TOKENS, 2))
        self.register_buffer("index", (torch.arange(TOKENS)[None] - torch.arange(TOKENS)[:, None]).abs())


def _standardised(self: Function, x: Tensor) -> Tensor:
    variance, mean = torch.var_mean(self.weight, 1, keepdim=True)
    return F.linear(x, (self.weight - mean) / (variance + 1e-6).sqrt())


def _normalised(self: Function, x: Tensor) -> Tensor:
    weight = F.batch_norm(self.weight.view(1, WIDTH, -1), None, None, self.gain, training=True, momentum=0.0)
    return F.linear(x, weight.view_as(self.weight))


def _position_bias(self: Function, x: Tensor) -> Tensor:
    bias = self.table.weight[self.table.index].permute(2, 0, 1)[0]
    y: Tensor = (bias @ x).softmax(-1)
    return y


FOLDED = {
    "1 + gain": (lambda s, x: x * (1 + s.gain), {"gain": normal(WIDTH)}, [aten.mul.Tensor]),
    "weight norm": (_weight_norm, {"gain": normal(WIDTH, 1), "direction": normal(WIDTH, WIDTH)}, [aten.linear.default]),
    "table of position biases": (
        _position_bias,
        {"table": _Table()},
        [aten.matmul.default, aten.softmax.int],
    ),
    "cast": (
        lambda s, x: x.float() * s.gain.float(),
        {"gain": normal(WIDTH)},
        [aten.to.dtype, aten.mul.Tensor],
    ),
}


@pytest.mark.parametrize(("function", "parts", "left"), FOLDED.values(), ids=FOLDED.keys())
def test_what_depends_on_parameters_alone_is_computed_once_with_the_same_bits(
    function: Callable[..., Tensor], parts: dict[str, nn.Module | Tensor], left: list[object]
) -> None:
    graph = _graph(function, **parts)
    folded, record = run(graph, FoldConstants(), tokens())
    assert targets(folded) == left
    assert record.skipped == ()
    assert len(record.matches) == 1
    for batch in (1, 3):
        with torch.no_grad():  # a product that gradients go through may run another way
            assert torch.equal(folded(tokens(batch)), graph(tokens(batch)))
        assert wrong_metadata(folded, tokens(batch)) == []
    again, second = run(folded, FoldConstants(), tokens())
    assert second.matches == second.skipped == ()
    assert text(again) == text(folded)


def test_the_weight_norm_of_torch_is_folded() -> None:
    linear = nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH))
    graph = graph_of(randomised(linear), tokens())
    folded, _ = run(graph, FoldConstants(), tokens())
    assert targets(folded) == [aten.linear.default]
    assert relative_error(folded(tokens()), graph(tokens())) < 1e-10


def test_a_view_of_a_parameter_stays_a_view_of_its_memory() -> None:
    graph = _graph(lambda s, x: x @ s.weight.t() + s.weight.view(-1)[:WIDTH], weight=normal(WIDTH, WIDTH))
    folded, record = run(graph, FoldConstants(), tokens())
    assert len(record.matches) == 2
    memory = graph.get_parameter("weight").data_ptr()
    constants = [n for n in folded.graph.find_nodes(op="get_attr") if str(n.target).startswith("constant")]
    assert [read_parameter(folded, node).data_ptr() for node in constants] == [memory, memory]
    assert torch.equal(folded(tokens()), graph(tokens()))


def test_a_constant_that_is_the_output_is_stored_too() -> None:
    graph = _graph(lambda s, x: (x * 2, s.gain + 1, s.gain), gain=normal(WIDTH))
    folded, record = run(graph, FoldConstants(), tokens())
    assert targets(folded) == [aten.mul.Tensor]
    assert len(record.matches) == 1
    assert all(torch.equal(a, b) for a, b in zip(folded(tokens()), graph(tokens()), strict=True))
    assert wrong_metadata(folded, tokens()) == []


def test_a_constant_that_another_constant_reads_too_is_stored_once() -> None:
    graph = _graph(lambda s, x: x * torch.exp(s.gain) + torch.exp(s.gain).square(), gain=normal(WIDTH))
    folded, record = run(graph, FoldConstants(), tokens())
    assert targets(folded) == [aten.mul.Tensor, aten.add.Tensor]
    assert len(list(folded.parameters())) == 2 == len(record.matches)
    assert torch.equal(folded(tokens()), graph(tokens()))


RANDOM = {
    "dropout in training mode": (
        lambda s, x: x * F.dropout(s.gain, 0.5, training=True),
        "dropout (aten.dropout.default)",
    ),
    "noise": (lambda s, x: x * (s.gain + torch.rand_like(s.gain)), "rand_like (aten.rand_like.default)"),
}


@pytest.mark.parametrize(("function", "name"), RANDOM.values(), ids=RANDOM.keys())
def test_random_values_stay_random(function: Callable[..., Tensor], name: str) -> None:
    graph = _graph(function, gain=normal(WIDTH))
    kept, record = run(graph, FoldConstants())
    assert record.matches == ()
    assert record.skipped == (Skip(name.split(" ", maxsplit=1)[0], f"{name} draws random values"),)
    assert text(kept) == text(graph)
    assert not torch.equal(kept(tokens()), kept(tokens()))


def test_dropout_in_eval_mode_is_not_random() -> None:
    graph = _graph(lambda s, x: x * F.dropout(s.gain, 0.5, training=False), gain=normal(WIDTH))
    folded, record = run(graph, FoldConstants(), tokens())
    assert record.skipped == ()
    assert targets(folded) == [aten.mul.Tensor]


def test_a_large_result_is_refused_with_its_size_and_the_limit() -> None:
    graph = _graph(lambda s, x: x + (s.gain + 1).expand(TOKENS, WIDTH).cos(), gain=normal(WIDTH))
    folded, record = run(graph, FoldConstants(limit=TOKENS * WIDTH - 1), tokens())
    assert record.skipped == (Skip("expand", f"expand has {TOKENS * WIDTH} values, more than {TOKENS * WIDTH - 1}"),)
    assert record.matches == ("add",)
    assert aten.expand.default in targets(folded)
    assert torch.equal(folded(tokens()), graph(tokens()))
    assert aten.expand.default not in targets(run(graph, FoldConstants(limit=TOKENS * WIDTH))[0])


PIECES: dict[str, tuple[Callable[..., Tensor], dict[str, Tensor]]] = {
    "chunks of a packed projection": (
        lambda s, x: sum(F.linear(x, part) for part in s.weight.chunk(3)),
        {"weight": normal(3 * WIDTH, WIDTH)},
    ),
    "pieces of other sizes": (
        lambda s, x: F.linear(x, s.weight.split([2, WIDTH])[1]),
        {"weight": normal(2 + WIDTH, WIDTH)},
    ),
    "rows one by one": (lambda s, x: x * s.gain.unbind()[0] + s.gain.unbind()[1], {"gain": normal(2, WIDTH)}),
    "pieces of what is computed": (lambda s, x: torch.mul(*(s.gain + 1).split(WIDTH)) * x, {"gain": normal(2 * WIDTH)}),
    "variance and mean, as in a standardised weight": (_standardised, {"weight": normal(WIDTH, WIDTH)}),
    "a batch norm of a weight": (_normalised, {"weight": normal(WIDTH, WIDTH), "gain": normal(WIDTH)}),
    "values and where they are": (lambda s, x: x[..., s.gain.topk(3)[1]] + s.gain.topk(3)[0], {"gain": normal(WIDTH)}),
}


@pytest.mark.parametrize(("function", "parts"), PIECES.values(), ids=PIECES.keys())
def test_each_of_several_results_that_is_read_is_stored(
    function: Callable[..., Tensor], parts: dict[str, Tensor]
) -> None:
    graph = _graph(function, **parts)
    folded, record = run(graph, FoldConstants(), tokens())
    assert record.skipped == ()
    assert set(targets(folded)) <= {
        aten.linear.default,
        aten.mul.Tensor,
        aten.add.Tensor,
        aten.index.Tensor,
        operator.add,
    }
    for batch in (1, 3):
        assert torch.equal(folded(tokens(batch)), graph(tokens(batch)))
        assert wrong_metadata(folded, tokens(batch)) == []
    again, second = run(folded, FoldConstants())
    assert second.matches == ()
    assert text(again) == text(folded)


def test_pieces_of_a_parameter_stay_views_of_its_memory_however_large_they_are() -> None:
    graph = _graph(PIECES["chunks of a packed projection"][0], weight=normal(3 * WIDTH, WIDTH))
    folded, record = run(graph, FoldConstants(limit=1), tokens())
    assert len(record.matches) == 3
    memory = graph.get_parameter("weight").untyped_storage().data_ptr()
    assert {part.untyped_storage().data_ptr() for part in folded.parameters()} == {memory}
    assert sum(part.numel() for part in folded.parameters()) == graph.get_parameter("weight").numel()


def test_what_depends_on_the_input_or_its_size_stays() -> None:
    graph = _graph(lambda s, x: x + s.gain.expand(x.shape[0], TOKENS, WIDTH), gain=normal(WIDTH))
    kept, record = run(graph, FoldConstants(), tokens())
    assert record.matches == record.skipped == ()
    assert text(kept) == text(graph)
    assert torch.equal(kept(tokens(7)), graph(tokens(7)))


def test_a_graph_without_constants_stays_as_it_is_and_the_given_graph_is_not_changed() -> None:
    _, graph = mlps()
    same, record = run(graph, FoldConstants())
    assert record.matches == record.skipped == ()
    assert text(same) == text(graph)
    graph = _graph(lambda s, x: x * (1 + s.gain), gain=normal(WIDTH))
    before = text(graph)
    run(graph, FoldConstants())
    assert text(graph) == before
