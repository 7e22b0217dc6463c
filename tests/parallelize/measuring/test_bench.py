"""Measurements: what is measured, what is skipped and why, and what is written down. No number is judged."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import parallelize
from parallelize.backends.runner_options import RunnerOptions
from parallelize.measuring.bench import bench
from parallelize.measuring.bench_report import notes
from parallelize.measuring.options import BenchOptions
from passes.errors import EnvironmentLackError, ParallelizeError
from tests.parallelize.small_models import images, pairs, vision
from tests.parallelize.written import write

CPU = RunnerOptions(device="cpu")
QUICK = BenchOptions(warm_up=0, duration=0.01, runner=CPU)
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write(folder / "a.onnx")
    write(folder / "a.engine")
    return folder


@pytest.fixture
def home(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def converted(directory: Path, refit: str = "none") -> Path:
    directory.mkdir()
    write(directory / "model.pt2")
    write(directory / "model.onnx")
    plan = pairs("affine" if refit == "affine" else "none")
    (directory / "plan.json").write_text(plan.to_json())
    write(directory.parent / "serial.pt2")
    return directory


@without_gpu
def test_what_can_be_timed_is_and_the_rest_is_skipped_with_its_reason(home: Path) -> None:
    result = bench(vision(), "a.onnx", "a.engine", "a.onnx@onnxruntime-cuda", options=QUICK)
    assert [(timing.label, timing.runner) for timing in result.timings] == [
        ("small", "torch"),
        ("a.onnx", "onnxruntime"),
    ]
    assert [skip.label for skip in result.skipped] == ["a.engine", "a.onnx@onnxruntime-cuda"]
    assert all("GPU" in skip.reason for skip in result.skipped)
    assert sum("was skipped" in note for note in notes(result)) == 2


@without_gpu
def test_a_machine_that_can_run_nothing_says_so(home: Path) -> None:
    with pytest.raises(EnvironmentLackError, match=r"Nothing could be timed: .*GPU") as caught:
        bench("a.engine", options=QUICK)
    assert caught.value.exit_code == 3


def test_rivals_are_the_networks_of_the_conversion(home: Path) -> None:
    converted(home / "out")
    result = bench("out", options=BenchOptions(0, 0.01, rivals=True, model="serial.pt2", runner=CPU))
    names = [timing.label for timing in result.timings]
    assert names == ["out", "serial", "rewrite, as is", "deletion, as is", "rewrite, unfused"]
    assert {timing.runner for timing in result.timings} == {"torch"}


@pytest.mark.slow
def test_rivals_with_a_refit_are_built_from_data(home: Path) -> None:
    converted(home / "out", "affine")
    np.savez(home / "data.npz", images=images(40, 0).arrays["images"].numpy())
    options = BenchOptions(0, 0.01, rivals=True, model="serial.pt2", runner=CPU)
    with pytest.raises(ParallelizeError, match="asks for a refit, which needs data"):
        bench("out", options=options)
    result = bench("out@onnxruntime", inputs="data.npz", options=options)
    assert [timing.label for timing in result.timings][-2:] == ["deletion, as is", "deletion, refitted"]
    assert {timing.runner for timing in result.timings} == {"onnxruntime"}


def test_rivals_need_a_plan_and_a_model(home: Path) -> None:
    with pytest.raises(ParallelizeError, match=r"a\.onnx has no plan\.json"):
        bench("a.onnx", options=BenchOptions(rivals=True, model="serial.pt2", runner=CPU))
    converted(home / "out")
    with pytest.raises(ParallelizeError, match="need the model"):
        bench("out", options=BenchOptions(rivals=True, runner=CPU))


def test_nothing_is_no_measurement() -> None:
    with pytest.raises(ParallelizeError, match="nothing to time"):
        bench()


def test_more_samples_than_there_are_make_no_batch(home: Path) -> None:
    np.savez(home / "data.npz", images=images(3, 0).arrays["images"].numpy())
    with pytest.raises(ParallelizeError, match="holds 3 samples, a batch has 4"):
        bench("a.onnx", inputs="data.npz", options=BenchOptions(0, 0.01, batch=4, runner=CPU))


def test_the_python_name_is_the_function() -> None:
    assert parallelize.bench is bench


def test_threads_of_torch_are_as_before_afterwards() -> None:
    before = torch.get_num_threads()
    bench(vision(), options=BenchOptions(0, 0.01, runner=RunnerOptions(threads=before + 1, device="cpu")))
    assert torch.get_num_threads() == before
