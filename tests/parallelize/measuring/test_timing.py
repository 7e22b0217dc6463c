"""One protocol of timing: by the host's clock on the CPU, by events and a CUDA graph on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from parallelize.data import Samples
from parallelize.machine.latency import WARM_UP, Moment, host_clock
from parallelize.measuring import timing
from parallelize.measuring.timing import latencies, ready, timing_stream

STREAM: Any = "a stream"
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@dataclass
class Toy:
    """A runner that counts its calls."""

    device: torch.device = CPU
    graphable: bool = True
    name: str = "toy"
    inputs: tuple[()] = ()
    outputs: tuple[()] = ()
    calls: list[int] = field(default_factory=list)

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return list(inputs)

    def bound(self, inputs: Sequence[Tensor]) -> Callable[[], object]:
        return lambda: self.calls.append(len(inputs[0]))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Stands for a GPU: what was captured as a CUDA graph."""
    captured: list[object] = []
    monkeypatch.setattr(timing, "gpu_clock", lambda _stream: lambda call: (call(), Moment(1, 0.5, 0.75))[1])
    monkeypatch.setattr(timing, "graphed", lambda call, stream: captured.append(stream) or call)
    return captured


def test_networks_are_timed_in_turn_on_one_sample_after_a_warm_up() -> None:
    runners = {"a": Toy(), "b": Toy()}
    found = latencies(runners, Samples({"x": torch.zeros(5, 2)}), rounds=3)
    assert {name: latency.rounds for name, latency in found.items()} == {"a": 3, "b": 3}
    assert [runner.calls for runner in runners.values()] == [[1] * (WARM_UP + 3)] * 2


def test_the_cpu_is_timed_by_the_host_without_a_stream() -> None:
    with timing_stream([Toy()]) as stream:
        found = ready(Toy(), [torch.zeros(1)], stream)
    assert (stream, found.clock, found.cuda_graph, found.note) == (None, host_clock, False, "")


def test_a_gpu_is_timed_by_events_around_a_cuda_graph(gpu: list[object]) -> None:
    found = ready(Toy(GPU), [torch.zeros(1)], STREAM)
    assert (found.cuda_graph, found.note, gpu) == (True, "", [STREAM])
    assert found.clock(found.call) == Moment(1, 0.5, 0.75)


def test_without_a_graph_the_reason_is_told_unless_none_was_asked_for(
    gpu: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, inputs = Toy(GPU, graphable=False), [torch.zeros(1)]
    assert ready(runner, inputs, STREAM).note == "no CUDA graph: toy allocates in each run."
    assert ready(runner, inputs, STREAM, cuda_graph=False).note == ""
    assert gpu == []

    def refused(_call: object, _stream: object) -> None:
        raise RuntimeError("it waits for a result. More words")

    monkeypatch.setattr(timing, "graphed", refused)
    found = ready(Toy(GPU), inputs, STREAM)
    assert (found.cuda_graph, found.note) == (False, "no CUDA graph: it waits for a result.")
