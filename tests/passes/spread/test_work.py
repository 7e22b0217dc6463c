"""Floating-point operations of a node."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.spread.work import flops
from tests.passes.drawn import drawn
from tests.passes.models import WIDTH, graph_of, normal, randomised, tokens


def test_products_convolutions_and_attention_are_counted_and_nothing_else() -> None:
    weight, kernel = normal(3, 8), normal(4, 8, 3)

    def network(x: Tensor) -> Tensor:
        mixed = F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])[:, 0]
        y = F.conv1d(F.gelu(mixed).transpose(1, 2), kernel, padding=1)
        return y.sum() + F.linear(x, weight).sum() + (x @ x.transpose(1, 2)).sum()

    counted = [work for work in map(flops, drawn(network, normal(2, 5, 8)).graph.nodes) if work]
    assert sorted(counted) == sorted(
        [2 * 2 * (2 * 5 * 5 * 8), 2 * (2 * 4 * 5) * 8 * 3, 2 * (2 * 5) * 8 * 3, 2 * (2 * 5) * 8 * 5]
    )


def test_a_free_batch_counts_as_that_of_the_example() -> None:
    graph = graph_of(randomised(nn.Linear(WIDTH, WIDTH)), tokens(3))
    assert sum(map(flops, graph.graph.nodes)) == 2 * tokens(3).numel() * WIDTH


def test_a_recurrence_uses_every_weight_at_each_position() -> None:
    lstm = randomised(nn.LSTM(WIDTH, 4, batch_first=True))
    graph = graph_of(lstm, tokens(3), dynamic=None)
    weights = sum(parameter.numel() for parameter in lstm.parameters())
    assert sum(map(flops, graph.graph.nodes)) == 2 * weights * tokens(3)[..., 0].numel()
