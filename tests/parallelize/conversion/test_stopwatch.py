"""A network is timed beside the serial one, by the backend that was asked for, and the serial one is written once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import parallelize.conversion.stopwatch
from parallelize.backends.choice import Choice
from parallelize.backends.tensorrt.backend import EngineBackend
from parallelize.backends.tensorrt.options import BuildOptions
from parallelize.backends.tensorrt.rtx import RTX_BACKEND
from parallelize.conversion.options import EngineOptions
from parallelize.conversion.stopwatch import Stopwatch, foreseen
from parallelize.machine.latency import Latency
from parallelize.predicting.asked_for import AskedFor
from tests.parallelize.conversion.jobs import random_job
from tests.parallelize.predicting.targets import KNOWN


def test_onnx_runtime_times_both_in_turn_and_the_serial_one_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, told = list[str](), list[str]()
    write = parallelize.conversion.stopwatch.write_onnx

    def counted(program: Any, path: Path, **options: Any) -> None:
        written.append(path.name)
        write(program, path, **options)

    monkeypatch.setattr(parallelize.conversion.stopwatch, "write_onnx", counted)
    job = random_job()
    watch = Stopwatch(job, tmp_path, lambda what, _: told.append(what))
    for depth in (2, 1):
        timed = watch(job.prepared.program, depth)
        assert timed.depth_blocks == depth
        assert min(timed.ms, timed.serial_ms) > 0
    assert written == ["serial.onnx", "ours.onnx", "ours.onnx"]
    assert told == ["timing 2 blocks deep", "timing 1 block deep"]


class _Engine:
    """Stands for an engine on a GPU."""

    device = torch.device("cpu")

    def bound(self, inputs: list[Tensor]) -> Callable[[], object]:
        return lambda: inputs


@pytest.mark.parametrize(("precision", "half"), [(None, False), ("fp16", True)])
def test_engines_are_built_in_their_precision_and_that_of_the_serial_network_once(
    precision: Any, half: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[tuple[str, BuildOptions]] = []

    def build(_self: EngineBackend, onnx: Path, output: Path, options: BuildOptions, **_: object) -> None:
        assert (b"Cast" in onnx.read_bytes()) == half
        built.append((output.name, options))

    times = {"serial": Latency(3.0, 3.0, 3.0, 9), "ours": Latency(1.0, 1.0, 1.0, 9)}
    seen: list[int] = []
    monkeypatch.setattr(EngineBackend, "build", build)
    monkeypatch.setattr(EngineBackend, "opened", lambda *_: nullcontext(_Engine()))
    monkeypatch.setattr(
        parallelize.conversion.stopwatch, "latencies", lambda _runners, _data, rounds: seen.append(rounds) or times
    )
    job = random_job()
    engine = EngineOptions(RTX_BACKEND.name, precision)
    job = replace(job, choice=Choice(RTX_BACKEND, ""), options=replace(job.options, engine=engine))
    watch = Stopwatch(job, tmp_path, lambda _what, _share: None)
    for _ in range(2):
        assert watch(job.prepared.program, 1).speed_up == pytest.approx(3.0)
    assert [name for name, _ in built] == ["serial.engine", "ours.engine", "ours.engine"]
    assert {options.precision for _, options in built} == {precision or "fp32"}
    assert all(options.shapes.least for _, options in built)
    assert seen == [200, 200]  # of an engine, whatever the rounds of ONNX Runtime are


def test_a_target_foresees_what_nobody_times() -> None:
    job, target = random_job(), AskedFor(KNOWN, "bf16")
    timed = foreseen(job, target)(job.prepared.program, 2)
    assert timed.serial_ms == timed.ms == target.milliseconds(job.prepared.program, job.prepared.data.judge)
