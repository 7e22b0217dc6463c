"""A model that writes in place becomes a functional graph; one that changes a buffer of its own is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from parallelize.models.capture import capture
from passes.errors import ParallelizeError
from passes.graph.operators import writes_in_place
from tests.parallelize.models.captured import Function


class Writes(nn.Module):
    """In-place activation, sum, slice and dropout, a batch norm, and a region without gradients around a write."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.relu = nn.Linear(8, 8), nn.BatchNorm1d(4), nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.5, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        state = self.relu(self.norm(self.linear(x)))
        state += x
        with torch.no_grad():
            state.mul_(2.0)
        hidden = self.dropout(F.gelu(state))
        hidden[:, 0] = 0
        return state + hidden


def test_a_model_that_writes_in_place_becomes_a_functional_graph_with_its_numbers() -> None:
    torch.manual_seed(0)
    model = Writes().eval()
    program = capture(model, (torch.randn(2, 4, 8),))
    assert not any(writes_in_place(node) for node in program.module.graph.nodes)
    targets = [str(node.target) for node in program.module.graph.nodes]
    assert "aten.batch_norm.default" in targets
    assert "aten.linear.default" in targets
    for batch in (1, 5):
        x = torch.randn(batch, 4, 8)
        torch.testing.assert_close(program.module(x), model(x.clone()))


def test_an_input_that_the_model_overwrites_is_left_as_it_was() -> None:
    program = capture(Function(lambda x: x.mul_(2) + 1).eval(), (torch.ones(2, 3),))
    x = torch.ones(4, 3)
    assert torch.equal(program.module(x), torch.full((4, 3), 3.0))
    assert torch.equal(x, torch.ones(4, 3))


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


def test_a_model_that_changes_a_buffer_is_refused_by_the_name_of_the_buffer() -> None:
    with pytest.raises(ParallelizeError, match=r"changes its buffer 'calls' when it runs\.$") as caught:
        capture(Counts().eval(), (torch.ones(2, 3),))
    assert "Leave counters and caches out of forward" in caught.value.hint
