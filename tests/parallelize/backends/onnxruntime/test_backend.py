"""ONNX Runtime as a backend: files are opened as they are, programs through a file that is gone afterwards."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import onnxruntime
import pytest
import torch

from parallelize.backends.backend import ONNX, PROGRAM
from parallelize.backends.onnxruntime.backend import ONNXRUNTIME, ONNXRUNTIME_CUDA
from parallelize.backends.runner_options import RunnerOptions
from parallelize.models.capture import capture
from passes.errors import EnvironmentLackError
from tests.parallelize.models.captured import Function
from tests.parallelize.onnx_models import mlp

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")


def test_the_version_is_told_with_what_it_runs_on() -> None:
    assert ONNXRUNTIME.found().startswith(f"{onnxruntime.__version__} (")
    assert "CPU" in ONNXRUNTIME.found()
    assert ONNXRUNTIME.lack() is None


@without_gpu
def test_on_a_gpu_the_gpu_is_what_is_lacking() -> None:
    lack = ONNXRUNTIME_CUDA.lack()
    assert isinstance(lack, EnvironmentLackError)
    assert "GPU" in str(lack)


def test_without_the_package_it_is_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    lack = ONNXRUNTIME.lack()
    assert isinstance(lack, EnvironmentLackError)
    assert "onnxruntime" in f"{lack} {lack.hint}"


def test_a_file_is_opened_as_it_is(tmp_path: Path) -> None:
    with ONNXRUNTIME.opened(str(mlp(tmp_path / "a.onnx")), ONNX, RunnerOptions()) as runner:
        assert (runner.name, runner.device.type, runner.graphable) == ("onnxruntime", "cpu", False)
        assert [spec.shape for spec in runner.inputs] == [("batch", 8)]
        assert runner([torch.zeros(3, 8)])[0].tolist() == [[0.0] * 4] * 3


def test_a_program_is_written_to_a_file_for_as_long_as_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = capture(Function(lambda x: 2 * x).eval(), (torch.zeros(2, 3),), dynamic=None, origin="double")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with ONNXRUNTIME.opened(program, PROGRAM, RunnerOptions()) as runner:
        assert list(tmp_path.iterdir())
        assert runner([torch.ones(2, 3)])[0].tolist() == [[2.0] * 3] * 2
    assert not list(tmp_path.iterdir())
