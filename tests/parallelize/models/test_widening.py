"""A model of half precision is converted in fp32 and cast back, without being asked to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from parallelize.conversion.convert import convert
from parallelize.conversion.options import ConvertOptions, EngineOptions
from parallelize.models.capture import capture
from tests.parallelize.small_models import Residual, mlp, stack_plan

PAIRS = stack_plan(4, [[[0], [1]], [[2], [3]]], "none")


class Autocast(nn.Module):
    """Enters autocasting in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Residual([mlp(8, 16) for _ in range(4)], nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y: Tensor = self.body(x)
        return y.float()


def rows(folder: Path, name: str) -> Path:
    np.savez(folder / "rows.npz", **{name: np.random.default_rng(0).standard_normal((20, 8)).astype("f4")})
    return folder / "rows.npz"


def test_autocasting_in_forward_is_captured_to_the_bit() -> None:
    torch.manual_seed(0)
    model = Autocast().eval()
    program = capture(model, (torch.zeros(2, 8),))
    x = torch.randn(5, 8)
    assert torch.equal(program.module(x), model(x))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "precision"),
    [
        ("bf16", None),
        ("bf16", "fp32"),
        ("autocast", None),
        ("autocast", "fp32"),
    ],
)
def test_a_half_model_is_converted_in_fp32_and_exported_in_its_own_precision(
    tmp_path: Path, kind: str, precision: str | None
) -> None:
    torch.manual_seed(0)
    model: nn.Module = Autocast() if kind == "autocast" else Residual([mlp(8, 16) for _ in range(4)], nn.Linear(8, 3))
    model = model.eval() if kind == "autocast" else model.eval().bfloat16()
    example = (torch.zeros(2, 8, dtype=torch.float32 if kind == "autocast" else torch.bfloat16),)
    program = capture(model, example, origin="half")
    options = ConvertOptions(plan=PAIRS, rounds=1, engine=EngineOptions("onnxruntime", precision))  # type: ignore[arg-type]
    result = convert(program, tmp_path / "out", inputs=rows(tmp_path, program.inputs[0].name), options=options)
    assert {spec.dtype for spec in (*result.program.inputs, *result.program.outputs)} == {torch.float32}
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["backend"]["precision"]["dtype"] == (precision or "bf16")
    stored = {tensor.data_type for tensor in onnx.load(tmp_path / "out/model.onnx").graph.initializer if tensor.dims}
    assert (onnx.TensorProto.BFLOAT16 in stored) == (precision is None)
    x = torch.randn(4, 8)
    wide = capture(model.float() if kind == "bf16" else model.body, (torch.zeros(2, 8),))
    options = ConvertOptions(plan=PAIRS, rounds=1, engine=EngineOptions("onnxruntime"))
    plain = convert(wide, tmp_path / "wide", inputs=rows(tmp_path, wide.inputs[0].name), options=options)
    torch.testing.assert_close(result.program.module(x), plain.program.module(x), rtol=0, atol=1e-5)
