"""A graph of half precision becomes one of fp32: the same network without the rounding."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from parallelize.models.capture import capture
from parallelize.models.program import Program
from passes.clean.remove_identities import RemoveIdentities
from passes.graph.dataflow import tensor_value
from passes.precision.widen_precision import WidenPrecision, half_precision
from passes.runner import run_passes


class Net(nn.Module):
    """Casts of its own, a table, a constant, tied weights and a mask of the least number."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 8), nn.Linear(8, 7, bias=False)
        self.head.weight = self.embed.weight
        self.norm, self.layer = nn.LayerNorm(8), nn.Linear(8, 8)
        self.register_buffer("table", torch.rand(8))

    def forward(self, ids: Tensor, x: Tensor) -> dict[str, Tensor]:
        h = self.embed(ids) + x + self.table + torch.full((8,), 0.5, dtype=x.dtype)
        h = h + self.layer(self.norm(h.float()).to(x.dtype))
        mask = torch.zeros(8, dtype=x.dtype).masked_fill(torch.arange(8) > 5, torch.finfo(x.dtype).min)
        return {"logits": self.head(h), "share": (h + mask).softmax(-1), "best": h.argmax(-1)}


def captured(model: nn.Module, dtype: torch.dtype) -> Program:
    return capture(model.to(dtype), (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, 8, dtype=dtype)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_everything_of_half_precision_becomes_fp32_and_tied_weights_stay_tied(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    half = Net().eval().to(dtype)
    program = captured(half, dtype)
    assert half_precision(program.module) == dtype
    module, (record,) = run_passes(program.module, [WidenPrecision()])
    assert record.matches
    values = [tensor_value(node) for node in module.graph.nodes]
    assert {value.dtype for value in values if value is not None and value.is_floating_point()} == {torch.float32}
    assert half_precision(module) is None
    state = {value.data_ptr() for value in module.state_dict().values() if value.shape == (7, 8)}
    assert len(state) == 1
    ids, x = torch.randint(0, 7, (2, 3)), torch.randn(2, 3, 8)
    wide = copy.deepcopy(half).float()(ids, x)
    for name, result in module(ids, x).items():
        torch.testing.assert_close(result, wide[name], rtol=0, atol=1e-6)


def test_casts_that_the_model_made_become_identities_and_a_second_time_nothing_is_left() -> None:
    torch.manual_seed(0)
    program = captured(Net().eval(), torch.bfloat16)
    module, records = run_passes(program.module, [WidenPrecision(), RemoveIdentities(), WidenPrecision()])
    assert not records[2].matches
    assert not [node for node in module.graph.nodes if "_to_copy" in str(node.target) or ".to." in str(node.target)]


class Bits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).view(torch.int16)


def test_a_graph_that_reads_the_bits_of_a_number_is_left_with_the_reason() -> None:
    program = capture(Bits().eval().bfloat16(), (torch.zeros(2, 4, dtype=torch.bfloat16),))
    module, (record,) = run_passes(program.module, [WidenPrecision()])
    assert [skip.reason.endswith(" reads the bits of its input") for skip in record.skipped] == [True]
    assert half_precision(module) == torch.bfloat16


def test_a_graph_of_fp32_stays_as_it_is() -> None:
    program = captured(Net().eval(), torch.float32)
    _, (record,) = run_passes(program.module, [WidenPrecision()])
    assert (record.matches, record.skipped) == ((), ())
