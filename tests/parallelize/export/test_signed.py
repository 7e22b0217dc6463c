"""A program's graph is an exported program as it stands, free sizes and shared weights included."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from parallelize.export.onnx import OPSET, write_onnx
from parallelize.export.signed import signed
from parallelize.export.translations import translated
from parallelize.models.capture import capture
from parallelize.models.program import Program
from tests.parallelize import small_models as small


class Tied(nn.Module):
    """A linear layer whose weight is read under two names, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("shift", torch.arange(4.0))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = self.first(x + self.shift)
        return {"hidden": hidden, "result": self.second(hidden.relu())}


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x).to(torch.float64)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.shape[0] > 4, lambda x: x + 1, lambda x: x - 1, (x,))


def _captured(module: nn.Module, *shape: int) -> Program:
    torch.manual_seed(0)
    return capture(module.eval(), (torch.randn(*shape),), origin="small")


@pytest.mark.parametrize("count", [1, 5])
def test_it_computes_what_the_graph_computes_at_any_batch(count: int) -> None:
    program, pixels = small.vision(), small.images(count, seed=1).stored["images"]
    exported = signed(program, translated(OPSET))
    assert exported is not None
    torch.testing.assert_close(exported.module()(pixels), program.module(pixels), rtol=0, atol=0)


def test_the_graph_itself_stays_as_it_was() -> None:
    program = small.vision()
    before = program.module.print_readable(print_output=False)
    signed(program, translated(OPSET))
    assert program.module.print_readable(print_output=False) == before


def test_a_weight_of_two_names_is_one_input_and_outputs_keep_their_structure() -> None:
    program = _captured(Tied(), 2, 4)
    exported = signed(program, ())
    assert exported is not None
    assert len(exported.graph_signature.parameters) == 3
    assert exported.graph_signature.buffers == ("shift",)
    torch.testing.assert_close(exported.module()(torch.ones(3, 4)), program.module(torch.ones(3, 4)))


def test_where_nothing_is_decomposed_nothing_is_traced() -> None:
    exported = signed(small.vision(), translated(OPSET))
    assert exported is not None
    assert exported.run_decompositions({}) is exported
    assert exported.run_decompositions() is not exported


def test_an_operator_without_an_onnx_form_of_its_own_is_decomposed_and_casts_are_not(tmp_path: Path) -> None:
    exported = signed(_captured(Normed(), 2, 3, 4, 4), translated(OPSET))
    assert exported is not None
    lowered = exported.run_decompositions({})
    assert lowered is not exported
    assert torch.ops.aten.batch_norm.default not in {node.target for node in lowered.graph.nodes}
    assert torch.ops.aten._to_copy.default in {node.target for node in exported.graph.nodes}


def test_a_graph_whose_weights_were_cast_since_its_values_were_computed_is_traced(tmp_path: Path) -> None:
    program = _captured(Tied(), 2, 4)
    wide = replace(
        program,
        module=copy.deepcopy(program.module).double(),
        inputs=tuple(replace(spec, dtype=torch.float64) for spec in program.inputs),
    )
    assert signed(program, ()) is not None
    assert signed(wide, ()) is None


def test_branches_of_control_flow_are_traced(tmp_path: Path) -> None:
    program = _captured(Branching(), 2, 4)
    assert signed(program, translated(OPSET)) is None
    write_onnx(program, tmp_path / "branching.onnx")
    assert (tmp_path / "branching.onnx").is_file()
