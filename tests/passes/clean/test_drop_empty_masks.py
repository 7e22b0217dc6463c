"""A mask that hides nothing goes, for every size of the free dimensions; one that may hide something stays."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.clean.drop_empty_masks import DropEmptyMasks
from passes.graph.operators import ATTENTION
from passes.graph.outputs import flat_outputs
from passes.runner import run_passes
from tests.passes.models import HEADS, TOKENS, WIDTH, Function, graph_of, normal, randomised, tokens, wrong_metadata

Mask = Callable[[Function, Tensor], Tensor]
FALSE_AT_END = torch.ones(1, 1, TOKENS, TOKENS, dtype=torch.bool)
FALSE_AT_END[..., -1] = False


def _attend(mask: Mask) -> Callable[[Function, Tensor], Tensor]:
    def forward(self: Function, x: Tensor) -> Tensor:
        heads = x.unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2)
        return F.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask(self, x))

    return forward


def _from_positions(_: Function, x: Tensor) -> Tensor:
    seen = torch.arange(x.shape[1])[None, None, :, None] >= 0
    return seen.expand(x.shape[0], 1, x.shape[1], x.shape[1])


EMPTY: dict[str, Mask] = {
    "positions from 0": _from_positions,
    "ones": lambda _, x: x.new_ones(x.shape[0], 1, TOKENS, TOKENS).bool(),
    "both ones": lambda s, x: _from_positions(s, x) & torch.ones(TOKENS, TOKENS, dtype=torch.bool),
    "not zeros": lambda _, x: ~torch.zeros(x.shape[0], 1, TOKENS, TOKENS, dtype=torch.bool),
    "zeros to add": lambda _, x: torch.zeros(x.shape[0], 1, TOKENS, TOKENS, dtype=x.dtype),
    "numbers of a choice": lambda s, x: torch.where(_from_positions(s, x), 0.0, float("-inf")).to(x.dtype),
    "a buffer": lambda s, _: s.stored,
}
FULL: dict[str, Mask] = {
    "causal": lambda _, x: torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril(),
    "positions from 1": lambda _, x: (torch.arange(TOKENS) >= 1)[None, None, :, None].expand(x.shape[0], 1, -1, TOKENS),
    "from the input": lambda _, x: (x[..., 0] >= 0)[:, None, None, :],
    "false everywhere": lambda _, x: torch.zeros(x.shape[0], 1, TOKENS, TOKENS, dtype=torch.bool),
    "ones to add": lambda _, x: torch.ones(x.shape[0], 1, TOKENS, TOKENS, dtype=x.dtype),
    "a buffer with a hole": lambda s, _: s.stored,
    "a half that becomes an integer": lambda _, x: x.new_full((x.shape[0], 1, TOKENS, TOKENS), 0.5).long().bool(),
    "a number that half precision rounds to 0": lambda _, x: x.new_full((TOKENS, TOKENS), 1e-9).half().bool(),
    "narrow positions that wrap": lambda _, x: (torch.arange(x.shape[1], dtype=torch.int8) >= 0)[None].expand(
        x.shape[1], -1
    ),
}


def _graph(mask: Mask, stored: Tensor) -> fx.GraphModule:
    model = Function(_attend(mask))
    model.register_buffer("stored", stored)
    return graph_of(model.eval(), tokens())


def _masks(graph: fx.GraphModule) -> list[object]:
    attentions = graph.graph.find_nodes(op="call_function", target=ATTENTION)
    return [node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask") for node in attentions]


@pytest.mark.parametrize("mask", EMPTY.values(), ids=EMPTY.keys())
def test_a_mask_that_hides_nothing_goes_with_the_same_numbers(mask: Mask) -> None:
    graph = _graph(mask, torch.ones(1, 1, TOKENS, TOKENS, dtype=torch.bool))
    after, (record,) = run_passes(graph, [DropEmptyMasks()], [tokens()])
    assert len(record.matches) == 1
    assert _masks(after) == [None]
    for batch in (1, 7):
        value = torch.randn(batch, TOKENS, WIDTH, dtype=torch.float64)
        assert torch.allclose(flat_outputs(graph, [value])[0], flat_outputs(after, [value])[0], rtol=0, atol=1e-12)
    assert wrong_metadata(after, tokens()) == []
    assert run_passes(after, [DropEmptyMasks()])[1][0].matches == ()


@pytest.mark.parametrize("mask", FULL.values(), ids=FULL.keys())
def test_a_mask_that_may_hide_something_stays(mask: Mask) -> None:
    graph = _graph(mask, FALSE_AT_END)
    after, (record,) = run_passes(graph, [DropEmptyMasks()])
    assert record.matches == ()
    assert _masks(after) != [None]


def test_zeros_of_a_size_that_only_the_data_tell_add_no_guard() -> None:
    def forward(_: Function, x: Tensor) -> Tensor:
        return (x[0, :1] + x.new_zeros(x.nonzero().shape[0], WIDTH)).exp()

    run_passes(graph_of(Function(forward).eval(), tokens()), [DropEmptyMasks()])


def test_a_parameter_of_zeros_stays_because_it_may_be_trained() -> None:
    model = randomised(Function(lambda s, x: x + s.bias, bias=normal(WIDTH)))
    with torch.no_grad():
        model.bias.zero_()
    _, (record,) = run_passes(graph_of(model.eval(), tokens()), [DropEmptyMasks()])
    assert record.matches == ()


def test_zeros_added_to_scores_go_and_zeros_that_widen_a_sum_stay_with_the_reason() -> None:
    narrow = graph_of(Function(lambda _, x: (x + torch.zeros(TOKENS, WIDTH, dtype=x.dtype)).exp()).eval(), tokens())
    after, (record,) = run_passes(narrow, [DropEmptyMasks()], [tokens()])
    assert len(record.matches) == 1
    assert len(after.graph.find_nodes(op="call_function", target=torch.ops.aten.add.Tensor)) == 0
    wide = graph_of(Function(lambda _, x: (x + torch.zeros(4, 1, TOKENS, WIDTH, dtype=x.dtype)).exp()).eval(), tokens())
    _, (record,) = run_passes(wide, [DropEmptyMasks()])
    assert record.matches == ()
    assert "widen the sum" in record.skipped[0].reason
