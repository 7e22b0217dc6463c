"""The engine of a conversion: what is written, and what is told of it."""

from __future__ import annotations

import json

import pytest
import torch

from parallelize.backends.tensorrt.layers import critical_layers
from parallelize.backends.tensorrt.library import RTX
from parallelize.backends.tensorrt.options import STORED, Precision
from parallelize.backends.tensorrt.sidecar import read_sidecar
from parallelize.conversion.notes import facts, notes
from parallelize.conversion.result import Result
from parallelize.export.onnx_file import read_onnx
from parallelize.measuring.written import TOLERANCE
from passes.graph.agreement import largest_change
from passes.graph.outputs import flat_outputs
from tests.parallelize.conversion.engine_cases import FILES, TRIED, WITHOUT_GPU, Converted, hashed
from tests.parallelize.small_models import images, vision

pytest.importorskip("tensorrt_rtx")


@pytest.mark.parametrize("precision", TRIED)
def test_the_directory_holds_the_engine_and_its_sidecar_and_no_scratch_file(
    converted: Converted, precision: Precision
) -> None:
    output = converted(precision).output
    assert {path.name for path in output.iterdir()} == FILES
    assert [path.name for path in output.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("precision", TRIED)
def test_the_sidecar_has_the_hashes_the_plan_and_the_precision(converted: Converted, precision: Precision) -> None:
    conversion = converted(precision)
    sidecar = read_sidecar(conversion.output / "model.engine")
    assert sidecar.engine_sha256 == hashed(conversion.output / "model.engine")
    assert sidecar.onnx_sha256 == hashed(conversion.output / "model.onnx")
    assert sidecar.plan == json.loads((conversion.output / "plan.json").read_text())
    assert (sidecar.backend, sidecar.precision, sidecar.gpu) == (RTX, precision, None)
    assert sidecar.flags["tf32"] == (precision == "tf32")
    assert {"8.0", "8.6", "8.9", "12.0"} <= set(sidecar.targets)


@pytest.mark.parametrize("precision", TRIED)
def test_the_errors_in_the_sidecar_were_measured(converted: Converted, precision: Precision) -> None:
    conversion = converted(precision)
    errors = read_sidecar(conversion.output / "model.engine").errors
    backend = conversion.report.backend
    assert backend.engine is not None
    assert backend.engine.errors == errors
    if precision in ("fp16", "bf16"):
        assert backend.precision.error is not None
        assert errors["cast against fp32 (relative-l2)"] == backend.precision.error > 0
    if precision == "bf16":  # ONNX Runtime has no kernels for it on a CPU
        assert set(errors) == {"cast against fp32 (relative-l2)"}
        assert backend.onnx_against_graph is None
        assert backend.onnx_not_run is not None
        assert backend.onnx_not_run.startswith("ONNX Runtime refuses model.onnx: ")
        return
    assert errors["onnx against graph"] == backend.onnx_against_graph
    assert 0 < errors["onnx against graph"] < TOLERANCE[precision]
    assert backend.onnx_not_run is None


@pytest.mark.parametrize("precision", TRIED)
def test_the_onnx_is_in_the_precision_asked_for_and_its_inputs_and_outputs_are_as_they_were(
    converted: Converted, precision: Precision
) -> None:
    model = read_onnx(converted(precision).output / "model.onnx")
    assert {product.dtype for product in model.products} == {STORED[precision]}
    assert {spec.dtype for spec in (*model.inputs, *model.outputs)} == {torch.float32}
    assert any(product.wide is not None for product in model.products)
    assert model.opset == (22 if precision == "bf16" else 18)


@pytest.mark.parametrize("precision", TRIED)
def test_the_program_stays_the_rewritten_model_in_fp32(converted: Converted, precision: Precision) -> None:
    written = torch.export.load(converted(precision).output / "model.pt2")
    assert {value.dtype for value in written.state_dict.values() if value.is_floating_point()} == {torch.float32}
    pixels = images(4, 3).arrays["images"]
    expected = flat_outputs(converted(precision).program.module, (pixels,))
    assert largest_change(expected, [written.module()(pixels)]) < 1e-5
    assert largest_change(flat_outputs(vision(2).module, (pixels,)), expected) > 1e-3


@pytest.mark.parametrize("precision", TRIED)
def test_fewer_kernels_wait_for_each_other_than_in_the_serial_engine(
    converted: Converted, precision: Precision
) -> None:
    conversion = converted(precision)
    assert conversion.report.backend.engine is not None
    serial, ours = (conversion.report.backend.engine.layers[name] for name in ("serial", "rewrite"))
    assert ours.critical <= 0.6 * serial.critical
    assert ours.kernels < serial.kernels
    sidecar = read_sidecar(conversion.output / "model.engine")
    assert ours.critical == critical_layers(sidecar.layers)


@pytest.mark.parametrize("precision", TRIED)
def test_the_report_tells_of_the_engine(converted: Converted, precision: Precision) -> None:
    conversion = converted(precision)
    backend = conversion.report.backend
    assert Result.from_json((conversion.output / "report.json").read_text()).backend == backend
    assert (backend.backend, backend.why) == (RTX, "it was asked for")
    assert backend.precision.dtype == ("fp32" if precision == "tf32" else precision)
    engine = backend.engine
    assert engine is not None
    assert engine.precision == precision
    assert engine.library.startswith(f"{RTX} ")
    assert engine.profiles == ("images 1x1x8x8 / 1x1x8x8 / 32x1x8x8",)
    assert engine.build_seconds > 0
    told = " ".join([*facts(conversion.report), *notes(conversion.report)])
    critical = {name: counts.critical for name, counts in engine.layers.items()}
    assert f"{critical['rewrite']} kernels wait for each other, {critical['serial']} in the serial engine" in told
    assert ("in fp32 stay" in told) == (precision in ("fp16", "bf16"))


@WITHOUT_GPU
def test_that_the_engine_was_not_run_is_told_with_the_reason(converted: Converted) -> None:
    report = converted("fp16").report
    engine = report.backend.engine
    assert engine is not None
    assert (engine.latency_ms, engine.not_run) == ({}, "model.engine runs on a GPU, and there is none here.")
    assert "The engine was not run: model.engine runs on a GPU" in " ".join(notes(report))
