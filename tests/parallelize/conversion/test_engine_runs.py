"""An engine that runs is compared and timed, as if there were a GPU; casts are checked."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from parallelize.backends.choice import Choice
from parallelize.backends.onnxruntime.backend import ONNXRUNTIME
from parallelize.backends.tensorrt.backend import EngineBackend
from parallelize.backends.tensorrt.build import build
from parallelize.backends.tensorrt.library import RTX
from parallelize.backends.tensorrt.options import BuildOptions, Precision
from parallelize.backends.tensorrt.rtx import RTX_BACKEND
from parallelize.backends.tensorrt.sidecar import read_sidecar
from parallelize.conversion import engines
from parallelize.conversion.convert import convert
from parallelize.conversion.engine_options import check_precision
from parallelize.conversion.options import ConvertOptions, EngineOptions
from parallelize.data import Samples
from parallelize.data.split import Split
from parallelize.export.onnx import write_onnx
from parallelize.export.precision import PrecisionRecord
from parallelize.models.capture import capture
from parallelize.models.program import Program
from passes.errors import CheckError, ParallelizeError
from passes.graph.outputs import flat_outputs
from tests.parallelize.conversion.engine_cases import PAIRS, rows
from tests.parallelize.small_models import Residual, mlp

pytest.importorskip("tensorrt_rtx")


class Double:
    """Stands for an engine on a GPU: computes a program, off by a share of the largest output."""

    program: Program
    off = 0.0
    device = torch.device("cpu")

    def bound(self, inputs: list[Tensor]) -> Callable[[], object]:
        return lambda: self(inputs)

    def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
        outputs = flat_outputs(self.program.module, tuple(inputs))
        return [value + self.off * value.abs().max() for value in outputs]


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> type[Double]:
    monkeypatch.setattr(EngineBackend, "opened", lambda *_: nullcontext(Double()))
    monkeypatch.setattr(Double, "program", rows(), raising=False)
    return Double


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX file of `rows` and an engine of it."""
    folder = tmp_path_factory.mktemp("built")
    write_onnx(rows(), folder / "model.onnx")
    build(folder / "model.onnx", folder / "model.engine", RTX, BuildOptions(precision="fp32"), errors={"known": 0.5})
    return folder


def _run(built: Path, tmp_path: Path, precision: Precision) -> engines.Built:
    program = rows()
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "model.engine"
    sidecar = read_sidecar(path)
    result = engines.Built(RTX, "", PrecisionRecord("fp32"), sidecar=sidecar)
    samples = Samples({"x": torch.randn(40, 8)})
    work = engines.Work(
        product=program,
        serial=program,
        directory=tmp_path,
        options=EngineOptions(RTX, precision),
        choice=Choice(RTX_BACKEND, ""),
        data=Split(samples, samples, samples),
        onnx_error=0.0,
        plan={},
    )
    return engines._run(result, work, program, path, lambda *_: None)


def test_an_engine_that_runs_is_compared_and_timed_and_the_sidecar_tells(
    built: Path, tmp_path: Path, on_gpu: type[Double]
) -> None:
    on_gpu.off = 1e-4
    result = _run(built, tmp_path, "fp32")
    sidecar = read_sidecar(tmp_path / "model.engine")
    assert sidecar.errors["engine against graph"] == pytest.approx(1e-4, rel=0.1)
    assert sidecar.errors["known"] == 0.5
    assert set(result.latencies) == {"serial", "rewrite"}
    assert result.not_run is None


def test_an_engine_that_computes_something_else_fails_the_conversion(
    built: Path, tmp_path: Path, on_gpu: type[Double]
) -> None:
    on_gpu.off = 5e-3
    with pytest.raises(ParallelizeError, match=r"The engine differs from its graph by 5.0e-03") as failed:
        _run(built, tmp_path, "fp32")
    assert failed.value.exit_code == 1
    assert _run(built, tmp_path, "tf32").not_run is None  # products may be rounded more there


@pytest.mark.slow
def test_a_cast_keeps_outputs_that_leave_the_range_in_fp32_and_says_so(data: Path, tmp_path: Path) -> None:
    model = nn.Sequential(Residual([mlp(8, 16) for _ in range(4)], nn.Linear(8, 64, bias=False))).eval()
    with torch.no_grad():
        model[0].head.weight.fill_(1e5)
    program = capture(model, (torch.zeros(2, 8),), origin="large")
    options = ConvertOptions(plan=PAIRS, engine=EngineOptions("onnxruntime", "fp16"))
    result = convert(program, tmp_path / "out", inputs=_named(program, data, tmp_path), options=options)
    backend = result.report.backend
    assert len(backend.precision.kept_for_range) == 1
    assert "infinite in float16, which ends at 65504" in str(backend.precision.out_of_range)
    assert backend.onnx_against_graph is not None
    assert backend.onnx_against_graph < 1e-3


def test_a_model_in_half_precision_is_refused_an_engine_in_fp32_before_the_search() -> None:
    model = Residual([mlp(8, 16) for _ in range(4)], nn.Linear(8, 3)).eval().to(torch.float16)
    program = capture(model, (torch.zeros(2, 8, dtype=torch.float16),), origin="half")
    with pytest.raises(ParallelizeError, match="half computes in fp16 already, so its engine cannot be fp32"):
        check_precision(program, EngineOptions(RTX), Choice(RTX_BACKEND, ""))
    check_precision(program, EngineOptions(RTX, "fp16"), Choice(RTX_BACKEND, ""))
    check_precision(program, EngineOptions(), Choice(ONNXRUNTIME, ""))


def test_an_onnx_file_that_onnx_runtime_finds_wrong_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(CheckError, match=r"ONNX Runtime does not take model\.onnx"):
        engines._check_onnx(rows(), tmp_path / "model.onnx", Samples({"x": torch.zeros(2, 8)}), "fp32")


def _named(program: Program, data: Path, folder: Path) -> Path:
    """The samples of `data` by the name that the program has for its input."""
    path = folder / "named.npz"
    np.savez(path, **{program.inputs[0].name: np.load(data / "rows.npz")["x"]})
    return path
