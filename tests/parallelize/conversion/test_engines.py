"""The engine of a conversion: what is written and told, what is refused before long work, and that nothing is left."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from parallelize.backends.choice import Choice
from parallelize.backends.onnxruntime.backend import ONNXRUNTIME
from parallelize.backends.tensorrt.backend import EngineBackend
from parallelize.backends.tensorrt.build import build
from parallelize.backends.tensorrt.layers import critical_layers
from parallelize.backends.tensorrt.library import INSTALL, RTX, TENSORRT
from parallelize.backends.tensorrt.options import STORED, BuildOptions, Precision
from parallelize.backends.tensorrt.profiles import Profile, ShapeOptions
from parallelize.backends.tensorrt.rtx import RTX_BACKEND
from parallelize.backends.tensorrt.sidecar import read_sidecar
from parallelize.conversion import engines
from parallelize.conversion.convert import Conversion, convert
from parallelize.conversion.engine_options import check_precision, settle
from parallelize.conversion.notes import facts, notes
from parallelize.conversion.options import ConvertOptions, EngineOptions
from parallelize.conversion.result import Result
from parallelize.data import Samples
from parallelize.data.split import Split
from parallelize.export.onnx import write_onnx
from parallelize.export.onnx_file import read_onnx
from parallelize.export.precision import PrecisionRecord
from parallelize.measuring.written import TOLERANCE
from parallelize.models.capture import capture
from parallelize.models.program import Program
from passes.errors import CheckError, EnvironmentLackError, ParallelizeError
from passes.graph.agreement import largest_change
from passes.graph.outputs import flat_outputs
from tests.parallelize.small_models import Residual, images, language, mlp, pairs, stack_plan, text, vision

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "fp16", "bf16")
# A conversion for each takes ten seconds; fp32 and fp16 stand for all in the quick suite.
TRIED = [p if p == "fp16" else pytest.param(p, marks=pytest.mark.slow) for p in PRECISIONS]
FILES = {
    "model.pt2",
    "model.onnx",
    "model.engine",
    "model.engine.json",
    "plan.json",
    "report.json",
    "report.html",
    "before.svg",
    "after.svg",
}
PAIRS = stack_plan(4, [[[0], [1]], [[2], [3]]], "none")


@pytest.fixture(scope="module", autouse=True)
def _rtx() -> None:
    pytest.importorskip("tensorrt_rtx")


@functools.cache
def rows() -> Program:
    """The quickest model to convert: four MLPs on vectors."""
    torch.manual_seed(0)
    model = Residual([mlp(8, 16) for _ in range(4)], nn.Linear(8, 3)).eval()
    return capture(model, (torch.zeros(2, 8),), origin="rows")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    np.savez(folder / "images.npz", images=images(60, 1).arrays["images"].numpy())
    np.savez(folder / "text.npz", **{name: array.numpy() for name, array in text(60, 0).arrays.items()})
    np.savez(folder / "rows.npz", x=np.random.default_rng(0).standard_normal((60, 8)).astype("f4"))
    return folder


Converted = Callable[[Precision], Conversion]


@pytest.fixture(scope="module")
def converted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    made: dict[Precision, Conversion] = {}

    def get(precision: Precision) -> Conversion:
        if precision not in made:
            made[precision] = convert(
                vision(2),
                tmp_path_factory.mktemp(precision) / "out",
                inputs=data / "images.npz",
                options=ConvertOptions(plan=pairs("none", 2), rounds=1, engine=EngineOptions(RTX, precision)),
            )
        return made[precision]

    return get


def options(**engine: Any) -> ConvertOptions:
    return ConvertOptions(plan=PAIRS, rounds=1, engine=EngineOptions(**{"backend": RTX, **engine}))


def hashed(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ------------------------------------------------------------------------------------------------------- what is made


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


# ------------------------------------------------------------------------------------------------------- shapes


def test_shapes_are_batches_to_32_and_the_other_sizes_of_the_data(data: Path, tmp_path: Path) -> None:
    free = capture(
        language().module,
        (),
        {name: array[:3] for name, array in text(3, 0).arrays.items()},
        dynamic=[{0: "batch", 1: "tokens"}] * 2,
        origin="free",
    )
    assert free.inputs[0].shape == ("batch", "tokens")
    made = engines._shapes(free, text(3, 0))
    assert made.least == {"input_ids": (1, 6), "attention_mask": (1, 6)}
    assert made.usual == made.least
    assert made.largest == {"input_ids": (32, 6), "attention_mask": (32, 6)}


@pytest.mark.slow
def test_the_users_shapes_are_used_and_a_sample_that_they_leave_out_is_told(data: Path, tmp_path: Path) -> None:
    shapes = ShapeOptions(least={"x": (2, 8)}, usual={"x": (4, 8)}, largest={"x": (6, 8)})
    building = BuildOptions(shapes=shapes, compute_capabilities=("8.9",))
    made = convert(rows(), tmp_path / "out", inputs=data / "rows.npz", options=options(build=building))
    sidecar = read_sidecar(made.output / "model.engine")
    assert sidecar.profiles == (Profile("x", (2, 8), (4, 8), (6, 8)),)
    assert sidecar.targets == ("8.9",)
    engine = made.report.backend.engine
    assert engine is not None
    assert engine.not_run == "It takes x 2x8 / 4x8 / 6x8, and the samples that judge make 1x8."


# ------------------------------------------------------------------------------------------- refused before long work


def _no_work(*_: object, **__: object) -> None:
    raise AssertionError("long work began")


BUILD = BuildOptions(compute_capabilities=("8.9",))
REFUSED = {
    "shapes without an engine": (
        EngineOptions("onnxruntime", build=BuildOptions(shapes=ShapeOptions(least={"x": (1, 8)}))),
        "the backend is onnxruntime: it was asked for",
    ),
    "a target without an engine": (EngineOptions("onnxruntime", build=BUILD), "the backend is onnxruntime"),
    "tf32 without an engine": (EngineOptions("onnxruntime", "tf32"), "tf32 is how an engine computes"),
    "an unknown backend": (EngineOptions("openvino"), "There is no backend 'openvino'"),
    "a GPU that the library has no kernels for": (
        EngineOptions(RTX, build=BuildOptions(compute_capabilities=("9.0",))),
        "has no kernels for compute capability 9.0",
    ),
    "an option of the other library": (
        EngineOptions(RTX, build=BuildOptions(version_compatible=True)),
        "--version-compatible is for tensorrt",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_engine_can_have_is_refused_before_the_model_is_loaded(
    case: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, sentence = REFUSED[case]
    monkeypatch.setattr("parallelize.conversion.job.prepare", _no_work)
    with pytest.raises(ParallelizeError, match=sentence) as refused:
        convert("gone.pt", tmp_path / "out", options=ConvertOptions(engine=wanted))
    assert refused.value.exit_code == 2
    assert not list(tmp_path.iterdir())


@WITHOUT_GPU
def test_engine_options_are_refused_where_auto_takes_no_engine() -> None:
    with pytest.raises(ParallelizeError, match="the backend is onnxruntime: there is no CUDA GPU here"):
        settle(EngineOptions(build=BUILD))
    with pytest.raises(ParallelizeError, match=r"tf32 .* there is no CUDA GPU here"):
        settle(EngineOptions(precision="tf32"))


SHAPES = {
    "of an unknown input": ({"y": (1, 8)}, "no input 'y'"),
    "of another rank": ({"x": (1, 8, 1)}, "has 3 sizes"),
    "of another fixed size": ({"x": (1, 9)}, "where the model fixes 8"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_a_shape_that_does_not_fit_is_refused_before_the_search(
    case: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes, sentence = SHAPES[case]
    monkeypatch.setattr("parallelize.conversion.convert.build_variants", _no_work)
    building = BuildOptions(shapes=ShapeOptions(largest=shapes))
    with pytest.raises(ParallelizeError, match=sentence):
        convert(rows(), tmp_path / "out", inputs=data / "rows.npz", options=options(build=building))
    assert not list(tmp_path.iterdir())


def test_a_library_that_is_not_installed_ends_in_3_with_the_command_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr("parallelize.conversion.job.prepare", _no_work)
    with pytest.raises(EnvironmentLackError, match="needs the package tensorrt") as refused:
        convert("gone.pt", tmp_path / "out", options=ConvertOptions(engine=EngineOptions(TENSORRT)))
    assert refused.value.exit_code == 3
    assert refused.value.hint == INSTALL[TENSORRT]
    assert not list(tmp_path.iterdir())


@WITHOUT_GPU
def test_a_library_that_builds_on_a_gpu_only_is_refused_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import types

    flags = types.SimpleNamespace(STRONGLY_TYPED=1)
    fake = types.SimpleNamespace(__version__="10.13.0", NetworkDefinitionCreationFlag=flags)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    monkeypatch.setattr("parallelize.conversion.job.prepare", _no_work)
    with pytest.raises(EnvironmentLackError, match=r"TensorRT 10.13.0 builds on a GPU, and there is none here"):
        convert("gone.pt", tmp_path / "out", options=ConvertOptions(engine=EngineOptions(TENSORRT)))


# ------------------------------------------------------------------------------------------------------- no engine


@pytest.mark.slow
@WITHOUT_GPU
def test_auto_says_which_backend_it_took_and_why_and_casts_all_the_same(data: Path, tmp_path: Path) -> None:
    wanted = options(backend="auto", precision="fp16")
    made = convert(rows(), tmp_path / "out", inputs=data / "rows.npz", options=wanted)
    backend = made.report.backend
    assert (backend.backend, backend.engine) == ("onnxruntime", None)
    assert "Backend onnxruntime: there is no CUDA GPU here (an engine can be built all the same" in " ".join(
        facts(made.report)
    )
    assert {path.name for path in made.output.iterdir()} == FILES - {"model.engine", "model.engine.json"}
    assert {product.dtype for product in read_onnx(made.output / "model.onnx").products} == {"float16"}


@pytest.mark.slow
def test_weights_that_lay_beside_the_onnx_in_fp32_do_not_stay_where_the_cast_one_has_them_inside(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from parallelize.export import onnx as onnx_export

    limit = 1 << 10
    monkeypatch.setattr(onnx_export, "_INLINE_LIMIT", limit)
    wanted = options(backend="onnxruntime")
    first = convert(rows(), tmp_path / "fp32", inputs=data / "rows.npz", options=wanted)
    beside = {path.name for path in first.output.iterdir()} - FILES
    assert beside == {"model.onnx.data"}
    size = sum(v.numel() * v.element_size() for v in torch.export.load(first.output / "model.pt2").state_dict.values())
    monkeypatch.setattr(onnx_export, "_INLINE_LIMIT", size)
    half = convert(
        rows(), tmp_path / "fp16", inputs=data / "rows.npz", options=options(backend="onnxruntime", precision="fp16")
    )
    assert not {path.name for path in half.output.iterdir()} - FILES
    onnx.checker.check_model(str(half.output / "model.onnx"))


# ------------------------------------------------------------------------------------------------------- failures


def test_a_build_that_fails_leaves_the_earlier_output_whole(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.json").write_text("{}")
    (out / "model.engine").write_bytes(b"earlier")

    def failing(*_: object, **__: object) -> None:
        raise ParallelizeError("The builder gave up.", "Wait.")

    monkeypatch.setattr(EngineBackend, "build", failing)
    with pytest.raises(ParallelizeError, match="The builder gave up"):
        convert(rows(), out, inputs=data / "rows.npz", force=True, options=options())
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        "report.json": b"{}",
        "model.engine": b"earlier",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# ------------------------------------------------------------------------------------------------- as if on a GPU


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
