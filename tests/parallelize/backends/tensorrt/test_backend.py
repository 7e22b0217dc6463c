"""What both libraries share as backends: which engines are theirs, and what they lack."""

from __future__ import annotations

from pathlib import Path

import pytest

from parallelize.backends.backend import ONNX
from parallelize.backends.runner_options import RunnerOptions
from parallelize.backends.tensorrt.backend import ENGINE, EngineBackend
from parallelize.backends.tensorrt.options import BuildOptions
from parallelize.backends.tensorrt.rtx import RTX_BACKEND
from parallelize.backends.tensorrt.sidecar import sidecar_path
from parallelize.backends.tensorrt.tensorrt import TENSORRT_BACKEND
from passes.errors import EnvironmentLackError, ParallelizeError
from tests.parallelize.backends.tensorrt.machines import ADA, BOTH, NO_GPU, seem
from tests.parallelize.backends.tensorrt.sidecars import put

LIBRARIES = pytest.mark.parametrize("backend", [RTX_BACKEND, TENSORRT_BACKEND], ids=lambda backend: backend.name)


@LIBRARIES
def test_engines_are_what_is_built_and_taken(backend: EngineBackend) -> None:
    assert (backend.builds, backend.takes) == (ENGINE, (ENGINE,))
    assert ENGINE.product == "model.engine"
    assert ONNX not in backend.takes


@LIBRARIES
def test_an_engine_is_of_the_library_that_its_sidecar_names(backend: EngineBackend, tmp_path: Path) -> None:
    engine = tmp_path / "a.engine"
    assert not backend.owns(engine)
    for named in ("tensorrt", "tensorrt-rtx"):
        put(engine, backend=named)
        assert backend.owns(engine) == (named == backend.name)
    for text in ("", "{", "[]", "3", "{}", '{"backend": null}'):
        sidecar_path(engine).write_text(text)
        assert not backend.owns(engine)


@LIBRARIES
def test_only_the_library_is_lacking_as_engines_are_built_for_other_machines(
    backend: EngineBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    seem(monkeypatch, NO_GPU, *BOTH)
    assert backend.lack() is None
    seem(monkeypatch, ADA)
    lack = backend.lack()
    assert isinstance(lack, EnvironmentLackError)
    assert lack.hint == backend.install


@LIBRARIES
def test_an_engine_that_nothing_vouches_for_is_not_opened(backend: EngineBackend, tmp_path: Path) -> None:
    (tmp_path / "a.engine").write_bytes(b"code")
    with pytest.raises(ParallelizeError, match=r"has no a\.engine\.json"):
        backend.opened(str(tmp_path / "a.engine"), ENGINE, RunnerOptions()).__enter__()


def test_options_are_held_against_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    seem(monkeypatch, ADA, *BOTH)
    assert RTX_BACKEND.require(BuildOptions(compute_capabilities=("8.9",))).backend == "tensorrt-rtx"
    with pytest.raises(ParallelizeError, match=r"has no kernels for compute capability 9\.0"):
        RTX_BACKEND.require(BuildOptions(compute_capabilities=("9.0",)))
    with pytest.raises(ParallelizeError, match="is for tensorrt-rtx"):
        TENSORRT_BACKEND.require(BuildOptions(compute_capabilities=("8.9",)))
