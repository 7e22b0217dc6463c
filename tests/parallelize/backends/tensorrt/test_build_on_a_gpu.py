"""The build with `tensorrt`, by its double: which names are called, in which order, with what; never what comes out."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parallelize.backends.tensorrt.build import build
from parallelize.backends.tensorrt.library import find_library
from parallelize.backends.tensorrt.options import BuildOptions
from parallelize.backends.tensorrt.profiles import ShapeOptions
from parallelize.backends.tensorrt.sidecar import BUILDER, INSPECTOR, Sidecar, read_sidecar
from passes.errors import CheckError, EnvironmentLackError, ParallelizeError
from tests.parallelize.backends.tensorrt.double import ENGINE
from tests.parallelize.backends.tensorrt.strictness import Script
from tests.parallelize.onnx_models import mlp

Install = Callable[..., Script]
VERSIONS = ["10.12.0.36", "11.4.0.106"]


def _told(version: str, dtype: str = "Float") -> str:
    """What an inspector says of `mlp`, in the spelling of 10 or of 11."""
    layers = [
        {"Name": name, "LayerType": "gemm", "Weights": {"Type": dtype}, "Metadata": f"[ONNX Layer: {name}]"}
        for name in ("first", "second")
    ]
    ends = {"Bindings": ["x", "y"]} if version.startswith("10") else {"I/O Tensors": [{"Name": "x"}]}
    return json.dumps({"Layers": layers, **ends})


def _build(folder: Path, options: BuildOptions | None = None, **more: Any) -> Sidecar:
    return build(mlp(folder / "m.onnx"), folder / "m.engine", "tensorrt", options, **more)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("version", VERSIONS)
def test_the_whole_build_touches_names_of_both_versions_only_and_in_the_right_order(
    version: str, tmp_path: Path, install: Install
) -> None:
    script = install(version, layers=_told(version))
    _build(tmp_path, BuildOptions(precision="fp32", timing_cache=tmp_path / "cache"))
    assert script.names == [
        "Builder.Builder",
        "Builder.create_network",
        "OnnxParser.OnnxParser",
        "OnnxParser.parse_from_file",
        "INetworkDefinition.get_input",
        "Builder.create_builder_config",
        "IBuilderConfig.profiling_verbosity=",
        "IBuilderConfig.clear_flag",
        "IBuilderConfig.progress_monitor=",
        "Builder.create_optimization_profile",
        "IOptimizationProfile.set_shape",
        "IBuilderConfig.add_optimization_profile",
        "IBuilderConfig.create_timing_cache",
        "IBuilderConfig.set_timing_cache",
        "Builder.build_serialized_network",
        "IBuilderConfig.get_timing_cache",
        "ITimingCache.serialize",
        "Runtime.Runtime",
        "Runtime.deserialize_cuda_engine",
        "ICudaEngine.create_engine_inspector",
        "EngineInspector.get_engine_information",
    ]
    module = find_library("tensorrt").module
    assert script.given("Builder.create_network") == [(1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED),)]
    assert script.given("OnnxParser.parse_from_file") == [(str((tmp_path / "m.onnx").resolve()),)]
    assert script.given("IBuilderConfig.profiling_verbosity=") == [(module.ProfilingVerbosity.DETAILED,)]
    assert script.given("Runtime.deserialize_cuda_engine") == [(ENGINE,)]
    assert script.given("EngineInspector.get_engine_information") == [("JSON",)]


@pytest.mark.usefixtures("gpu")
def test_the_parser_gets_an_absolute_path_of_a_relative_one(
    tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = install()
    mlp(tmp_path / "m.onnx")
    monkeypatch.chdir(tmp_path)
    build(Path("m.onnx"), Path("m.engine"), "tensorrt")
    assert script.given("OnnxParser.parse_from_file") == [(str((tmp_path / "m.onnx").resolve()),)]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("version", VERSIONS)
def test_the_sidecar_says_which_gpu_and_version_and_what_the_inspector_told(
    version: str, tmp_path: Path, install: Install
) -> None:
    install(version, layers=_told(version))
    sidecar = _build(tmp_path, BuildOptions(precision="fp32"))
    assert (sidecar.backend, sidecar.version, sidecar.targets) == ("tensorrt", version, ("8.9",))
    assert (sidecar.gpu, sidecar.layers_from) == ("NVIDIA L4", INSPECTOR)
    assert [layer.nodes for layer in sidecar.layers] == [("first",), ("second",)]
    assert sidecar.engine_sha256 == hashlib.sha256(ENGINE).hexdigest()
    assert read_sidecar(tmp_path / "m.engine") == sidecar


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("precision", "called", "not_called"),
    [("tf32", "set_flag", "clear_flag"), ("fp32", "clear_flag", "set_flag"), (None, "clear_flag", "set_flag")],
)
def test_tf32_is_cleared_unless_it_is_asked_for(
    precision: Any, called: str, not_called: str, tmp_path: Path, install: Install
) -> None:
    script = install(layers=_told("10"))
    sidecar = _build(tmp_path, BuildOptions(precision=precision))
    assert script.given(f"IBuilderConfig.{called}") == [("TF32",)]
    assert script.given(f"IBuilderConfig.{not_called}") == []
    assert sidecar.flags["tf32"] is (precision == "tf32")


@pytest.mark.usefixtures("gpu")
def test_every_option_is_passed_on(tmp_path: Path, install: Install) -> None:
    script = install()
    shapes = ShapeOptions({"x": (1, 8)}, {"x": (2, 8)}, {"x": (4, 8)})
    options = BuildOptions(
        shapes=shapes,
        workspace=64,
        optimization_level=0,
        max_aux_streams=0,
        version_compatible=True,
        hardware_compatibility="ampere+",
    )
    _build(tmp_path, options)
    module = find_library("tensorrt").module
    assert script.given("IOptimizationProfile.set_shape") == [("x", (1, 8), (2, 8), (4, 8))]
    assert script.given("IBuilderConfig.set_memory_pool_limit") == [("WORKSPACE", 64 * 2**20)]
    assert script.given("IBuilderConfig.builder_optimization_level=") == [(0,)]
    assert script.given("IBuilderConfig.max_aux_streams=") == [(0,)]
    assert script.given("IBuilderConfig.set_flag") == [("VERSION_COMPATIBLE",)]
    ampere = module.HardwareCompatibilityLevel.AMPERE_PLUS
    assert script.given("IBuilderConfig.hardware_compatibility_level=") == [(ampere,)]


@pytest.mark.usefixtures("gpu")
def test_an_engine_for_its_own_compute_capability_is_asked_for_by_the_name_of_both_versions(
    tmp_path: Path, install: Install
) -> None:
    script = install()
    _build(tmp_path, BuildOptions(hardware_compatibility="same"))
    level = find_library("tensorrt").module.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
    assert script.given("IBuilderConfig.hardware_compatibility_level=") == [(level,)]


@pytest.mark.usefixtures("gpu")
def test_what_is_not_asked_for_is_left_to_the_library(tmp_path: Path, install: Install) -> None:
    script = install()
    _build(tmp_path)
    properties = {name for name in script.names if name.endswith("=")}
    assert properties == {"IBuilderConfig.profiling_verbosity=", "IBuilderConfig.progress_monitor="}
    methods = ("set_flag", "set_memory_pool_limit", "create_timing_cache", "set_timing_cache", "get_timing_cache")
    assert not {f"IBuilderConfig.{name}" for name in methods} & set(script.names)


@pytest.mark.usefixtures("gpu")
def test_the_timing_cache_starts_empty_is_kept_and_is_read_again(tmp_path: Path, install: Install) -> None:
    script, cache = install(), tmp_path / "cache"
    options = BuildOptions(timing_cache=cache)
    _build(tmp_path, options)
    assert cache.read_bytes() == b"timings"
    _build(tmp_path, options)
    assert script.given("IBuilderConfig.create_timing_cache") == [(b"",), (b"timings",)]
    assert [ignore for _, ignore in script.given("IBuilderConfig.set_timing_cache")] == [False, False]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("refused", ["create_timing_cache", "set_timing_cache"])
def test_a_timing_cache_of_another_gpu_is_refused_and_stays(refused: str, tmp_path: Path, install: Install) -> None:
    script, cache = install(refuse={f"IBuilderConfig.{refused}"}), tmp_path / "cache"
    cache.write_bytes(b"others")
    with pytest.raises(ParallelizeError) as caught:
        _build(tmp_path, BuildOptions(timing_cache=cache))
    assert str(caught.value) == f"The timing cache {cache} is of another GPU or another version."
    assert cache.read_bytes() == b"others"
    assert "Builder.build_serialized_network" not in script.names


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("cache", "error", "reason"),
    [
        (".", ParallelizeError, "cannot be written: it is a directory."),
        ("none/cache", EnvironmentLackError, "cannot be written: there is no folder"),
        ("m.engine", ParallelizeError, "is what is built."),
        ("m.engine.json", ParallelizeError, "is what is built."),
    ],
)
def test_a_timing_cache_that_cannot_be_written_is_refused_before_the_builder_is_called(
    cache: str, error: type[ParallelizeError], reason: str, tmp_path: Path, install: Install
) -> None:
    script = install()
    with pytest.raises(error) as caught:
        _build(tmp_path, BuildOptions(timing_cache=tmp_path / cache))
    assert str(caught.value).startswith("The timing cache ")
    assert reason in str(caught.value)
    assert script.calls == []


@pytest.mark.usefixtures("gpu")
def test_an_engine_is_written_although_its_timing_cache_cannot_be(
    tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    cache, write = tmp_path / "cache", Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if cache.name in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(EnvironmentLackError) as caught:
        _build(tmp_path, BuildOptions(timing_cache=cache))
    assert str(caught.value) == f"The timing cache {cache} cannot be written: No space left on device."
    assert caught.value.hint.startswith("The engine is written")
    assert read_sidecar(tmp_path / "m.engine").backend == "tensorrt"


@pytest.mark.usefixtures("gpu")
def test_what_the_parser_complains_of_becomes_a_sentence(tmp_path: Path, install: Install) -> None:
    script = install(refuse={"OnnxParser.parse_from_file"})
    with pytest.raises(ParallelizeError) as caught:
        _build(tmp_path)
    assert str(caught.value) == (
        "TensorRT 10.12.0.36 cannot take m.onnx: wobble (Wobble): no importer registered [UNSUPPORTED_NODE]."
    )
    assert script.names[-1] == "OnnxParser.get_error"
    assert not list(tmp_path.glob("*.engine*"))


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("words", "reason"),
    [("Error Code 4:\n no memory.", "Error Code 4: no memory"), ("", "the builder gave no reason")],
)
def test_a_builder_that_returns_nothing_becomes_a_sentence_with_its_last_words(
    words: str, reason: str, tmp_path: Path, install: Install
) -> None:
    script = install(refuse={"Builder.build_serialized_network"}, words=words)
    with pytest.raises(ParallelizeError) as caught:
        _build(tmp_path, BuildOptions(timing_cache=tmp_path / "cache"))
    assert str(caught.value) == f"TensorRT 10.12.0.36 cannot build m.onnx: {reason}."
    assert script.names[-1] == "Builder.build_serialized_network"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx"]


@pytest.mark.usefixtures("gpu")
def test_an_engine_in_another_dtype_than_was_asked_for_is_not_written(tmp_path: Path, install: Install) -> None:
    install(layers=_told("10", "Half"))
    with pytest.raises(CheckError, match=r"the engine's layer first computes first in float16\.$"):
        _build(tmp_path, BuildOptions(precision="fp32"))
    assert not list(tmp_path.glob("*.engine*"))


@pytest.mark.usefixtures("gpu")
def test_the_progress_of_the_outer_phase_is_told(tmp_path: Path, install: Install) -> None:
    install()
    told: list[float | None] = []
    _build(tmp_path, report=lambda _what, share: told.append(share))
    assert told == [0, 0, 0.5, 1.0]


@pytest.mark.usefixtures("gpu")
def test_gpus_cannot_be_named_to_a_library_that_builds_for_its_own(tmp_path: Path, install: Install) -> None:
    script = install()
    with pytest.raises(ParallelizeError, match=r"^--compute-capability is for tensorrt-rtx: "):
        _build(tmp_path, BuildOptions(compute_capabilities=("8.9",)))
    assert script.calls == []


def test_without_a_gpu_nothing_is_asked_of_the_builder(tmp_path: Path, install: Install) -> None:
    script = install()
    with pytest.raises(EnvironmentLackError) as caught:
        _build(tmp_path)
    assert str(caught.value) == "TensorRT 10.12.0.36 builds on a GPU, and there is none here."
    assert "--backend tensorrt-rtx" in caught.value.hint
    assert script.calls == []


def test_a_library_with_named_targets_gets_them_and_its_timing_cache_is_never_touched(
    tmp_path: Path, install: Install
) -> None:
    script = install("1.7.1.116", rtx=True)
    options = BuildOptions(compute_capabilities=("8.0", "8.9"))
    sidecar = build(mlp(tmp_path / "m.onnx"), tmp_path / "m.engine", "tensorrt-rtx", options)
    assert script.given("IBuilderConfig.num_compute_capabilities=") == [(2,)]
    assert script.given("IBuilderConfig.set_compute_capability") == [("SM80", 0), ("SM89", 1)]
    assert not [name for name in script.names if "timing_cache" in name]
    assert (sidecar.targets, sidecar.gpu, sidecar.layers_from) == (("8.0", "8.9"), None, BUILDER)


def test_turing_is_left_out_unless_it_is_asked_for(tmp_path: Path, install: Install) -> None:
    script = install("1.7.1.116", rtx=True)
    sidecar = build(mlp(tmp_path / "m.onnx"), tmp_path / "m.engine", "tensorrt-rtx")
    assert script.given("IBuilderConfig.set_compute_capability") == [("SM80", 0), ("SM89", 1)]
    assert sidecar.targets == ("8.0", "8.9")


def test_a_target_that_the_library_refuses_is_named(tmp_path: Path, install: Install) -> None:
    install("1.7.1.116", rtx=True, refuse={"IBuilderConfig.set_compute_capability"})
    options = BuildOptions(compute_capabilities=("7.5", "8.9"))
    with pytest.raises(ParallelizeError, match=r"cannot be built for compute capability 7\.5 beside 7\.5, 8\.9\.$"):
        build(mlp(tmp_path / "m.onnx"), tmp_path / "m.engine", "tensorrt-rtx", options)


@pytest.mark.usefixtures("gpu")
def test_an_engine_that_does_not_load_again_is_refused(tmp_path: Path, install: Install) -> None:
    install(refuse={"Runtime.deserialize_cuda_engine"}, layers=_told("10"))
    with pytest.raises(ParallelizeError, match=r"was built, but TensorRT .* does not load it here: Error Code 4"):
        _build(tmp_path)
    assert not (tmp_path / "a.engine").exists()
