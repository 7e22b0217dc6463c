"""What no engine can have is refused before long work, and a build that fails leaves nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from parallelize.backends.tensorrt.backend import EngineBackend
from parallelize.backends.tensorrt.library import INSTALL, RTX, TENSORRT
from parallelize.backends.tensorrt.options import BuildOptions
from parallelize.backends.tensorrt.profiles import ShapeOptions
from parallelize.conversion.convert import convert
from parallelize.conversion.engine_options import settle
from parallelize.conversion.options import ConvertOptions, EngineOptions
from passes.errors import EnvironmentLackError, ParallelizeError
from tests.parallelize.conversion.engine_cases import WITHOUT_GPU, options, rows

pytest.importorskip("tensorrt_rtx")


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
    monkeypatch.setattr("parallelize.conversion.making.each_network", _no_work)
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
