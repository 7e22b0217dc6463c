"""Time on a GPU: by events on a stream, apart from the host's time, with or without a CUDA graph.

Calls only enqueue. The host's time to enqueue ends where the call returns, its time in all where the result is there.
A CUDA graph holds the kernels of one call and enqueues them at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from parallelize.machine.latency import Call, Moment

_BEFORE_CAPTURE = 3  # calls that allocate, choose algorithms and compile


def new_stream() -> torch.cuda.Stream:
    """A stream that is not the default one, which no CUDA graph is captured on."""
    stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    return stream


def gpu_clock(stream: torch.cuda.Stream) -> Callable[[Call], Moment]:
    """A clock for calls that enqueue on `stream`, which is the current one."""
    before, behind = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]

    def clock(call: Call) -> Moment:
        start = time.perf_counter_ns()
        before.record(stream)
        call()
        behind.record(stream)
        enqueued = time.perf_counter_ns()
        behind.synchronize()
        done = time.perf_counter_ns()
        return Moment((done - start) / 1e6, (enqueued - start) / 1e6, before.elapsed_time(behind))

    return clock


def graphed(call: Call, stream: torch.cuda.Stream) -> Call:
    """The same call as a CUDA graph.

    Raises:
        RuntimeError: the call does something that no graph can hold, such as waiting for a result.
    """
    for _ in range(_BEFORE_CAPTURE):
        call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        kept = call()

    def replay() -> object:
        graph.replay()
        return kept

    return replay
