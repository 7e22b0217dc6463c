"""Summands: what an operator adds up comes to its value, and what only looks like a sum of tensors adds up nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.stacks.summands import Factor, Summand, chosen_sum, summands_of
from tests.passes.drawn import drawn, inputs_of, result
from tests.passes.models import TOKENS, WIDTH, normal, relative_error, tokens
from tests.passes.stacks.sums import sum_of, values_of

aten = torch.ops.aten
GAIN, SQUARE = normal(WIDTH, seed=3).abs() + 0.5, normal(WIDTH, WIDTH, seed=4)
PLACES = torch.tensor([2, 0])

Forward = Callable[[Tensor, Tensor], Tensor]

SUMS: dict[str, tuple[Forward, int]] = {
    "add": (lambda x, f: x + f, 2),
    "add with alpha": (lambda x, f: torch.add(x, f, alpha=0.5), 2),
    "sub with alpha": (lambda x, f: torch.sub(x, f, alpha=2), 2),
    "rsub with alpha": (lambda x, f: torch.rsub(x, f, alpha=2), 2),
    "broadcast": (lambda x, f: x + f[:1], 2),
    "lerp": (lambda x, f: torch.lerp(x, f, 0.3), 3),
    "lerp by a tensor": (lambda x, f: torch.lerp(x, f, torch.sigmoid(f)), 3),
    "addcmul": (lambda x, f: torch.addcmul(x, f, GAIN, value=0.7), 2),
    "addcdiv": (lambda x, f: torch.addcdiv(x, f, GAIN, value=0.7), 2),
    "addmm": (lambda x, f: torch.addmm(x[0], f[0], SQUARE, alpha=2, beta=0.5), 2),
    "baddbmm": (lambda x, f: torch.baddbmm(x, f, SQUARE.expand(3, -1, -1)), 2),
    "stack and sum": (lambda x, f: torch.stack([x, f, f * f]).sum(0), 3),
    "stack and mean": (lambda x, f: torch.stack([x, f], -1).mean(-1), 2),
    "weighted stack": (lambda x, f: (GAIN[:2, None, None, None] * torch.stack([x, f])).sum(0), 2),
    "weighted last axis": (lambda x, f: (torch.stack([x, f], -1) * GAIN[:2]).mean(-1), 2),
    "stack times a column": (lambda x, f: (torch.stack([x, f], -1) @ SQUARE[:2, :1]).squeeze(-1), 2),
    "linear of a stack": (lambda x, f: F.linear(torch.stack([x, f], -1), SQUARE[:1, :2]).squeeze(-1), 2),
    "moved stack": (lambda x, f: torch.stack([x, f]).permute(1, 2, 0, 3).sum(2), 2),
    "cat": (lambda x, f: torch.cat([x[:, None], f[:, None]], 1).sum(1), 2),
    "cat viewed apart": (lambda x, f: torch.cat([x, f], -1).view(3, TOKENS, 2, WIDTH).sum(-2), 2),
    "cat unflattened": (lambda x, f: torch.cat([x, f], 1).unflatten(1, (2, TOKENS)).mean(1), 2),
    "axis kept and squeezed": (lambda x, f: torch.stack([x, f], 2).sum(2, keepdim=True).squeeze(2), 2),
    "wider add": (lambda x, f: (x.to(torch.float32).to(torch.float64) + f).to(torch.float32), 0),
    "index_add": (lambda x, f: x.index_add(1, PLACES, f[:, :2], alpha=0.5), 2),
    "scatter_add": (lambda x, f: x.scatter_add(1, PLACES[None, :, None].expand(3, 2, WIDTH), f[:, :2]), 2),
    "index_put": (lambda x, f: aten.index_put(x, [None, PLACES], f[:, :2], True), 2),
    "where the sum is": (lambda x, f: torch.where(f > 0, x + f, x), 2),
    "where the state is": (lambda x, f: torch.where(f > 0, x, 2 * f + x), 2),
    # what is no sum of tensors
    "one number added": (lambda x, f: x + 1.0, 0),
    "twice the same": (lambda x, f: x + x, 0),
    "bias of a product": (lambda x, f: torch.addmm(GAIN, x[0], SQUARE), 0),
    "stack of one": (lambda x, f: torch.stack([x]).sum(0), 0),
    "another axis": (lambda x, f: torch.stack([x, f]).sum(1), 0),
    "two axes": (lambda x, f: torch.stack([x, f]).sum([0, 1]), 0),
    "axis kept": (lambda x, f: torch.stack([x, f]).sum(0, keepdim=True), 0),
    "sum in another dtype": (lambda x, f: torch.stack([x, f]).sum(0, dtype=torch.float32), 0),
    "cat of rows": (lambda x, f: torch.cat([x, f]).sum(0), 0),
    "cat viewed otherwise": (lambda x, f: torch.cat([x, f], -1).view(3, TOKENS, WIDTH, 2).sum(-1), 0),
    "axes moved too": (lambda x, f: torch.stack([x, f]).permute(0, 2, 1, 3).sum(0), 0),
    "weights of other axes": (lambda x, f: (torch.stack([x, f]) * GAIN).sum(0), 0),
    "a stack times two columns": (lambda x, f: (torch.stack([x, f], -1) @ SQUARE[:2, :2]).squeeze(-1), 0),
    "places overwritten": (lambda x, f: aten.index_put(x, [None, PLACES], f[:, :2]), 0),
    "a choice of unlike values": (lambda x, f: torch.where(f > 0, x * f, x), 0),
    "a choice between a sum and another": (lambda x, f: torch.where(f > 0, x + f, f.sin()), 0),
}


@pytest.mark.parametrize("name", SUMS)
def test_summands_come_to_the_value_of_the_node(name: str) -> None:
    forward, count = SUMS[name]
    graph = drawn(forward, tokens(), tokens(seed=2))
    node, values = result(graph), values_of(graph, tokens(), tokens(seed=2))
    summands = summands_of(node)
    assert len(summands) == count
    if count:
        assert relative_error(sum_of(summands, values), values[node]) < 1e-14
        assert all(read in values for summand in summands for read in summand.reads)


@pytest.mark.parametrize(
    ("narrow", "wide", "count"),
    [(torch.bfloat16, torch.float32, 2), (torch.float32, torch.float64, 2), (torch.bfloat16, torch.float16, 0)],
)
def test_an_add_between_casts_is_one_of_narrow_numbers_where_the_wide_type_rounds_nothing(
    narrow: torch.dtype, wide: torch.dtype, count: int
) -> None:
    x, f = tokens().to(narrow), tokens(seed=2).to(narrow)
    graph = drawn(lambda x, f: (x.to(wide) + f.to(wide)).to(narrow), x, f)
    summands = summands_of(result(graph))
    assert [summand.value for summand in summands] == inputs_of(graph)[:count]
    if count:
        assert torch.equal((x.to(wide) + f.to(wide)).to(narrow), x + f)


def test_a_wide_value_that_was_never_narrow_is_no_summand_of_a_narrow_sum() -> None:
    graph = drawn(lambda x, f: (x.double() + f).float(), tokens().float(), tokens(seed=2))
    assert summands_of(result(graph)) == []


def test_a_choice_whose_sum_is_read_elsewhere_is_no_sum() -> None:
    def forward(x: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
        total = x + f
        return torch.where(f > 0, total, x), total

    graph = drawn(forward, tokens(), tokens(seed=2))
    (choice,) = graph.graph.find_nodes(op="call_function", target=aten.where.self)
    assert chosen_sum(choice) is None
    assert summands_of(choice) == []


def test_a_factor_of_one_is_left_out_and_others_are_part_of_the_whole() -> None:
    graph = drawn(lambda x, f: x + f, tokens(), tokens(seed=2))
    x, f = inputs_of(graph)
    assert Summand(x).times(1, 1.0).factors == ()
    scaled = Summand(x).times(Factor.one_over(f), 2.0, Factor.one_over(4))
    assert scaled.reads == (x, f)
    values = values_of(graph, tokens(), tokens(seed=2))
    assert torch.equal(sum_of([Summand(scaled.whole)], values), sum_of([scaled], values))
