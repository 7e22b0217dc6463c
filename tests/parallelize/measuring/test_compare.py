"""Comparisons of real networks: programs, ONNX files, what differs and what cannot be compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import parallelize
from parallelize.export.onnx import write_onnx
from parallelize.measuring.compare import compare, distinct
from parallelize.measuring.options import CompareOptions
from parallelize.models.capture import capture
from parallelize.models.program import Program
from passes.errors import CheckError, ParallelizeError
from tests.parallelize.small_models import vision
from tests.parallelize.written import write


class Affine(nn.Module):
    """x -> (scale * x, x > 0)."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.scale * x, x > 0


def affine(scale: float, origin: str = "affine") -> Program:
    return capture(Affine(scale).eval(), (torch.zeros(2, 3),), origin=origin)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "small.onnx")


def test_a_program_and_its_onnx_agree_up_to_rounding(file: Path) -> None:
    result = compare(vision(), file, options=CompareOptions(rtol=1e-3, atol=1e-4))
    assert result
    result.check()
    (network,) = result.networks
    (output,) = network.outputs
    assert (network.runner, output.elements, result.samples) == ("onnxruntime", 64 * 10, 64)
    assert output.absolute is not None
    assert 0 < output.absolute.max < 1e-4


def test_the_python_name_is_the_function() -> None:
    assert parallelize.compare is compare


def test_a_known_difference_is_measured_on_real_data(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((70, 3)).astype("f4")
    np.savez(tmp_path / "data.npz", x=x)
    options = CompareOptions(rtol=0.05)
    result = compare(affine(2.0), affine(2.2), inputs=tmp_path / "data.npz", options=options)
    scaled, sign = result.networks[0].outputs
    assert scaled.relative is not None
    assert scaled.relative.max == pytest.approx(0.1, rel=1e-5)
    assert sign.failing == 0
    assert (result.samples, result.random) == (70, False)
    assert not result
    with pytest.raises(CheckError, match=r"output .* of affine #2 is outside of atol 0, rtol 0.05 in 210 of 210"):
        result.check()


def test_modules_are_captured_on_the_data_in_memory_and_loaded_files_run_where_they_did(tmp_path: Path) -> None:
    write_onnx(affine(2.2), tmp_path / "a.onnx")
    with parallelize.load(tmp_path / "a.onnx") as loaded:
        result = compare(Affine(2.0).eval(), loaded, inputs=[torch.ones(2, 3), torch.ones(1, 3)])
    assert [(network.runner, result.samples) for network in result.networks] == [("onnxruntime", 3)]
    assert result.networks[0].outputs[0].relative is not None
    assert result.networks[0].outputs[0].relative.max == pytest.approx(0.1, rel=1e-5)


def test_without_a_tolerance_a_difference_passes_and_nan_does_not() -> None:
    assert compare(affine(2.0), affine(3.0))
    broken = compare(affine(2.0), affine(float("nan")))
    assert not broken
    with pytest.raises(CheckError, match="NaN or infinite in 192 of 192"):
        broken.check()


def test_another_number_of_outputs_is_one_sentence() -> None:
    one = capture(nn.Identity().eval(), (torch.zeros(2, 3),), origin="one")
    with pytest.raises(CheckError, match=r"^one returns 1 outputs, affine returns 2\.$"):
        compare(affine(1.0), one)


def test_another_shape_of_an_output_is_one_sentence() -> None:
    a, b = (capture(nn.Linear(3, n).eval(), (torch.zeros(2, 3),), origin=f"to{n}") for n in (4, 5))
    with pytest.raises(CheckError, match=r"^Output 0 of to5 is 32x5@float32, of to4 32x4@float32\.$"):
        compare(a, b)


def test_another_shape_of_an_input_is_one_sentence() -> None:
    a, b = (capture(nn.Linear(n, 4).eval(), (torch.zeros(2, n),), origin=f"from{n}") for n in (3, 5))
    with pytest.raises(CheckError, match="from5 reads 'input' as batchx5@float32, where it is batchx3@float32"):
        compare(a, b)


def test_a_fixed_batch_holds_for_all_and_the_last_one_is_filled_up() -> None:
    program = affine(1.0)
    fixed = replace(program, inputs=tuple(replace(spec, shape=(3, *spec.shape[1:])) for spec in program.inputs))
    assert compare(program, fixed).samples == 64
    with pytest.raises(ParallelizeError, match="fixed to 3, not 2"):
        compare(program, fixed, options=CompareOptions(batch=2))


def test_one_network_is_no_comparison() -> None:
    with pytest.raises(ParallelizeError, match="two networks"):
        compare(affine(1.0))


def test_networks_of_one_name_are_told_apart() -> None:
    assert distinct(["a", "b", "a"]) == ["a #1", "b", "a #2"]
