"""TensorRT builds and runs on a GPU only."""

from __future__ import annotations

import sys

import pytest

from parallelize.backends.tensorrt.rtx import RTX_BACKEND
from parallelize.backends.tensorrt.tensorrt import TENSORRT_BACKEND
from tests.parallelize.backends.tensorrt.machines import ADA, BOTH, HOPPER, NO_GPU, seem

WHY = "there is a GPU and TensorRT is installed"


@pytest.mark.parametrize(
    ("capability", "installed", "why"),
    [
        (ADA, BOTH, WHY),
        (HOPPER, ("tensorrt",), WHY),
        (ADA, ("tensorrt-rtx",), None),
        (NO_GPU, BOTH, None),
        (NO_GPU, (), None),
    ],
)
def test_it_builds_and_runs_on_any_gpu_and_nothing_without_one(
    capability: str | None, installed: tuple[str, ...], why: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seem(monkeypatch, capability, *installed)
    assert TENSORRT_BACKEND.builds_here() == TENSORRT_BACKEND.runs_here() == why
    assert (TENSORRT_BACKEND.needs_gpu, RTX_BACKEND.needs_gpu) == (True, False)


def test_doctor_is_told_the_version_and_that_nothing_is_built_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    seem(monkeypatch, ADA, *BOTH)
    assert TENSORRT_BACKEND.found() == "10.12.0.36"
    seem(monkeypatch, NO_GPU, *BOTH)
    assert TENSORRT_BACKEND.found() == "10.12.0.36; builds nothing without a GPU"
    monkeypatch.setitem(sys.modules, "torch", None)
    assert TENSORRT_BACKEND.found() == "10.12.0.36; builds nothing without a GPU"
