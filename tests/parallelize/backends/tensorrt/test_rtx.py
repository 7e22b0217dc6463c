"""TensorRT for RTX builds wherever it is installed, and runs on the GPUs that it has kernels for."""

from __future__ import annotations

import sys

import pytest

from parallelize.backends.tensorrt.rtx import RTX_BACKEND
from passes.errors import EnvironmentLackError
from tests.parallelize.backends.tensorrt.machines import ADA, BOTH, HOPPER, NO_GPU, seem

BUILDS, RUNS = "it builds without a GPU", "there is a GPU that TensorRT for RTX knows"


@pytest.mark.parametrize(
    ("capability", "installed", "builds", "runs"),
    [
        (NO_GPU, BOTH, BUILDS, None),
        (ADA, BOTH, BUILDS, RUNS),
        (HOPPER, BOTH, BUILDS, None),
        (ADA, ("tensorrt",), None, None),
        (NO_GPU, (), None, None),
    ],
)
def test_it_builds_where_it_is_installed_and_runs_on_a_gpu_that_it_knows(
    capability: str | None,
    installed: tuple[str, ...],
    builds: str | None,
    runs: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seem(monkeypatch, capability, *installed)
    assert (RTX_BACKEND.builds_here(), RTX_BACKEND.runs_here()) == (builds, runs)


@pytest.mark.parametrize(
    ("capability", "told"),
    [
        (NO_GPU, "engines are built, not run, without a GPU"),
        (ADA, "runs on this GPU"),
        (HOPPER, "does not run on this GPU (9.0)"),
    ],
)
def test_doctor_is_told_what_it_builds_for_and_whether_that_runs_here(
    capability: str | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seem(monkeypatch, capability, *BOTH)
    assert RTX_BACKEND.found() == f"1.7.1.116, builds for 7.5, 8.9, 12.0; {told}"


def test_it_is_found_without_torch_and_not_found_without_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    seem(monkeypatch, ADA, *BOTH)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert RTX_BACKEND.found().endswith("engines are built, not run, without a GPU")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(EnvironmentLackError):
        RTX_BACKEND.found()
