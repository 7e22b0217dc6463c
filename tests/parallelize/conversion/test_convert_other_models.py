"""Conversions of other models: text with padding, outputs by name, no data at all."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import parallelize
from parallelize.backends.onnxruntime.session import OnnxRuntime
from parallelize.conversion.convert import convert
from parallelize.conversion.options import ConvertOptions
from parallelize.conversion.result import Result
from parallelize.conversion.table import table
from parallelize.data.split import split
from parallelize.metrics import Judge
from passes.errors import ParallelizeError
from passes.plan import Plan
from tests.parallelize.conversion.conversions import two_blocks
from tests.parallelize.small_models import language, text


@pytest.mark.slow
def test_without_data_nothing_is_refitted_and_the_report_warns(tmp_path: Path) -> None:
    result = convert(two_blocks(), tmp_path / "out", options=ConvertOptions(rounds=1))
    assert "random" in result.report.warnings[0]
    assert result.report.names == ("serial", "rewrite, as is", "deletion, as is")
    plan = Plan(tuple(result.plan.with_refit("full").stacks))
    with pytest.raises(ParallelizeError, match="needs data"):
        convert(two_blocks(), tmp_path / "again", options=ConvertOptions(plan=plan, rounds=1))


def _printed(result: Result) -> list[str]:
    stream = io.StringIO()
    Console(width=100, file=stream).print(table(result))
    return stream.getvalue().splitlines()


@pytest.mark.slow
def test_a_language_model_within_a_percentage_of_its_perplexity_padding_left_out(tmp_path: Path) -> None:
    samples = text(60, 0)
    np.savez(tmp_path / "text.npz", **{name: array.numpy() for name, array in samples.arrays.items()})
    options = ConvertOptions(max_error="30%", metric="perplexity", refit="none", rounds=1)
    report = convert(language(), tmp_path / "out", inputs=tmp_path / "text.npz", options=options).report
    assert report.metric.max_error == "30%"
    chosen = report.search[-1].held_out
    assert chosen.perplexity is not None
    assert chosen.perplexity_teacher is not None
    assert chosen.perplexity <= 1.3 * chosen.perplexity_teacher
    serial = report.serial
    judged = Judge(language().module, split(samples, None, 0).judge, "perplexity").serial
    assert serial.errors["perplexity"] == 0
    assert serial.values["perplexity"] == pytest.approx(judged.value("perplexity"))
    low, high = serial.value_intervals["perplexity"]
    row = next(line for line in _printed(report) if line.startswith(" serial "))
    assert f" {serial.values['perplexity']:.2f} {low:.1f}..{high:.1f} " in row


class Actor(nn.Module):
    """Two outputs by name, post-activation blocks, a block whose branch ends in a change of shape."""

    def __init__(self) -> None:
        super().__init__()
        self.terms = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(2)
        )
        self.value, self.action = nn.Linear(8, 1), nn.Linear(8, 3)

    def forward(self, state: Tensor) -> dict[str, Tensor]:
        for term in self.terms:
            state = state + term(state.transpose(0, 1)).transpose(0, 1)
        return {"value": self.value(state), "action": self.action(state)}


@pytest.mark.slow
def test_named_outputs_and_branches_that_swap_dimensions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    np.savez(tmp_path / "data.npz", state=torch.randn(60, 5, 8).numpy())
    result = parallelize.convert(
        Actor().eval(),
        tmp_path / "out",
        inputs=tmp_path / "data.npz",
        example=(torch.zeros(2, 5, 8),),
        options=parallelize.ConvertOptions(depth=1, rounds=1, refit="none"),
    )
    names = [spec.name for spec in OnnxRuntime(tmp_path / "out" / "model.onnx", 1).outputs]
    assert names == ["value", "action"]
    fusion = next(record for record in result.report.passes if record.name == "fuse-width")
    assert not fusion.skipped
    assert result.report.product.critical_gemms == result.report.serial.critical_gemms - 2
    assert result.report.product.scores.kl is None
