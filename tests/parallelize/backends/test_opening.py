"""Every runner that this machine has computes what the program computes; the rest are refused."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

from parallelize.backends.artefact import parse_artefact
from parallelize.backends.backend import PROGRAM
from parallelize.backends.registry import named
from parallelize.backends.runner import Runner
from parallelize.backends.runner_options import RunnerOptions
from parallelize.models.program import Program
from passes.errors import EnvironmentLackError, ParallelizeError
from tests.parallelize.small_models import images, vision
from tests.parallelize.written import write

CPU = RunnerOptions(device="cpu")
INPUTS = next(images(3, 0).batches(3))
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")


def opened(program: Program, name: str, options: RunnerOptions = CPU) -> AbstractContextManager[Runner]:
    backend = named(name)
    assert backend is not None
    return backend.opened(program, PROGRAM, options)


@pytest.mark.parametrize("runner", ["torch", pytest.param("torch-compile", marks=pytest.mark.slow), "onnxruntime"])
def test_a_program_runs_in_every_runner(runner: str) -> None:
    expected = vision().module(*INPUTS)
    with opened(vision(), runner) as opened_runner:
        assert (opened_runner.name, opened_runner.device.type) == (runner, "cpu")
        assert [spec.name for spec in opened_runner.inputs] == [spec.name for spec in vision().inputs]
        assert [spec.name for spec in opened_runner.outputs] == [spec.name for spec in vision().outputs]
        (actual,) = opened_runner(INPUTS)
        opened_runner.bound(INPUTS)()
    assert torch.allclose(actual, expected, atol=1e-4)


def test_files_are_opened_by_their_kind(tmp_path: Path) -> None:
    for name in ("model.pt2", "model.onnx"):
        with parse_artefact(write(tmp_path / name)).opened(CPU) as runner:
            assert torch.allclose(runner(INPUTS)[0], vision().module(*INPUTS), atol=1e-4)


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_a_broken_onnx_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    with (
        pytest.raises(ParallelizeError, match=r"ONNX Runtime refuses bad\.onnx"),
        parse_artefact(tmp_path / "bad.onnx").opened(CPU),
    ):
        pass


@without_gpu
@pytest.mark.parametrize("name", ["a.engine", "a.engine@tensorrt-rtx", "a.onnx@onnxruntime-cuda"])
def test_a_machine_without_a_gpu_lacks_it(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a.onnx")
    write(tmp_path / "a.engine")
    with pytest.raises(EnvironmentLackError, match="GPU") as caught, parse_artefact(f"{tmp_path}/{name}").opened(CPU):
        pass
    assert caught.value.exit_code == 3


def test_an_engine_that_nothing_vouches_for_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.engine").write_bytes(b"")
    with (
        pytest.raises(ParallelizeError, match=r"has no a\.engine\.json"),
        parse_artefact(tmp_path / "a.engine").opened(CPU),
    ):
        pass


def test_an_engine_is_run_by_the_library_that_it_is_of(tmp_path: Path) -> None:
    write(tmp_path / "a.engine")
    assert parse_artefact(tmp_path / "a.engine").backend.name == "tensorrt-rtx"
    (tmp_path / "a.engine").rename(tmp_path / "model.engine")
    (tmp_path / "a.engine.json").rename(tmp_path / "model.engine.json")
    (tmp_path / "report.json").touch()
    for spelled in (f"{tmp_path}@tensorrt", f"{tmp_path}/model.engine@tensorrt", f"{tmp_path}@tensorrt-rtx"):
        assert parse_artefact(spelled).backend.name == "tensorrt-rtx"
