"""A program run eagerly: outputs in their order on the CPU, inputs cast to what it reads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from parallelize.backends.torch.eager import Eager
from parallelize.models.capture import capture


class Looked(nn.Module):
    """Token numbers and a scale -> two outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(5, 4)

    def forward(self, ids: Tensor, scale: Tensor) -> dict[str, Tensor]:
        state = self.table(ids) * scale
        return {"state": state, "largest": state.argmax(-1)}


IDS, SCALE = torch.tensor([[0, 4], [2, 2]]), torch.tensor([[[2.0]], [[3.0]]])


@pytest.fixture(scope="module")
def runner() -> Eager:
    return Eager(capture(Looked().eval(), (IDS, SCALE), dynamic=None, origin="net"), torch.device("cpu"))


def test_outputs_are_those_of_the_model_in_their_order(runner: Eager) -> None:
    expected = Looked()(IDS, SCALE)
    state, largest = runner([IDS, SCALE])
    assert torch.equal(state, expected["state"])
    assert torch.equal(largest, expected["largest"])
    assert [spec.name for spec in runner.outputs] == ["state", "largest"]
    assert not state.requires_grad


def test_inputs_of_another_dtype_are_cast(runner: Eager) -> None:
    expected = runner([IDS, SCALE])
    for given in ([IDS.int(), SCALE.double()], [IDS.float(), SCALE.int()]):
        assert all(torch.equal(*pair) for pair in zip(runner(given), expected, strict=True))


def test_a_bound_call_runs_the_inputs_that_it_was_given(runner: Eager) -> None:
    call = runner.bound([IDS.int(), SCALE])
    for _ in range(2):
        result = call()
        assert isinstance(result, dict)
        assert torch.equal(result["state"], runner([IDS, SCALE])[0])
