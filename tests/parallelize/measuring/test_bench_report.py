"""What a measurement tells, as plain values, as a table, in sentences and as a chart."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from parallelize.backends.runner_options import RunnerOptions
from parallelize.measuring.bench import BenchResult, Skipped, Timing
from parallelize.measuring.bench_report import as_dict, notes, plot, table
from parallelize.measuring.options import BenchOptions

OPTIONS = BenchOptions(warm_up=5, duration=0.5, percentiles=(50, 99.9), batch=2, runner=RunnerOptions(threads=2))
SERIAL = Timing("serial.pt2", "torch", "cpu", 30, {50: 4.0, 99.9: 5.0}, None, None, 4.0)
WIDE = Timing("out [1]", "onnxruntime", "cpu", 60, {50: 1.6, 99.9: 2.0}, None, None, 1.6, note="no CUDA graph: none.")
SKIPPED = Skipped("a.engine", "It needs a GPU.", "Use another machine.")
CPU = BenchResult((SERIAL, WIDE), (SKIPPED,), 2, False, OPTIONS)
GPU_TIMES = {"enqueue": {50: 0.9, 99.9: 1.0}, "gpu": {50: 1.0, 99.9: 1.5}, "median": 1.0}


def on_a_gpu() -> BenchResult:
    fast = replace(SERIAL, device="cuda", cuda_graph=True, enqueue_bound=True, **GPU_TIMES)  # type: ignore[arg-type]
    return BenchResult((fast, replace(fast, label="b", enqueue_bound=False)), (), 1, True, OPTIONS)


def shown(result: BenchResult) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(table(result))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_plain_values_hold_every_number_with_the_machine() -> None:
    content = as_dict(CPU)
    json.dumps(content, allow_nan=False)
    assert content["schema"] == "parallelize-bench/1"
    assert {"date", "processor", "torch", "onnxruntime", "parallelize"} <= content["measured_on"].keys()
    assert "gpu" not in content["measured_on"]
    told = {name: content[name] for name in ("batch", "warm_up_ms", "duration_s", "threads", "tf32", "speed_up_by")}
    assert told == {"batch": 2, "warm_up_ms": 5, "duration_s": 0.5, "threads": 2, "tf32": False, "speed_up_by": "host"}
    first, second = content["networks"]
    assert (first["speed_up"], second["speed_up"]) == (1, 2.5)
    assert (first["host_ms"], first["gpu_ms"], first["enqueue_ms"]) == ({"p50": 4.0, "p99.9": 5.0}, None, None)
    assert (second["iterations"], second["note"], second["cuda_graph"]) == (60, "no CUDA graph: none.", False)
    assert content["skipped"] == [{"name": "a.engine", "reason": "It needs a GPU.", "hint": "Use another machine."}]


def test_the_table_has_a_row_for_each_network_whose_name_is_no_markup() -> None:
    text = shown(CPU)
    assert "out [1]" in text
    for number in ("p99.9 ms", "2.50x", "1.6", "batch 2, in turn, 0.5 s of each; on the CPU 2"):
        assert number in text
    assert "GPU" not in text
    assert "speed-up by the median of host time" in text


def test_on_a_gpu_there_are_three_times_and_a_network_on_the_cpu_has_one_of_them() -> None:
    both = replace(on_a_gpu(), timings=(on_a_gpu().timings[0], SERIAL), by_gpu=False)
    (row,) = [line for line in shown(both).splitlines() if "cpu" in line or line.split()[:1] == ["serial.pt2"]][1:]
    assert row.split()[2:] == ["-", "-", "4", "5", "-", "-", "0.25x"]
    assert "speed-up by the median of GPU time" in " ".join(shown(on_a_gpu()).split())


def test_what_was_skipped_or_is_odd_is_told_in_sentences() -> None:
    assert notes(CPU) == [
        "a.engine was skipped: It needs a GPU. Use another machine.",
        "out [1]: no CUDA graph: none.",
    ]
    (bound,) = notes(on_a_gpu())
    assert bound.startswith("serial.pt2 is enqueue-bound: ")


@pytest.mark.parametrize("result", [CPU, on_a_gpu()], ids=["cpu", "gpu"])
def test_the_chart_names_every_network_with_its_runner(result: BenchResult, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    named = replace(result, timings=(*result.timings, replace(result.timings[0], label="$x_1$")))
    plot(named, tmp_path / "chart.svg")
    text = (tmp_path / "chart.svg").read_text()
    assert all(f"<!-- {timing.label} ({timing.runner}) -->" in text for timing in named.timings)
    assert f"{'GPU' if result.by_gpu else 'host'} ms, batch {result.batch}: median, line to p99.9" in text
