"""How a network is timed, by `bench` and by conversions alike: in turn with others, on inputs that lie where it runs.

On the CPU the time is that of the host until the result is there. On a GPU a call only enqueues: all calls go to one
stream, events on it tell the GPU's time apart from the host's, and a CUDA graph holds the kernels of a call where one
can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from parallelize.backends.runner import Runner
from parallelize.data import Samples
from parallelize.machine.gpu_clock import gpu_clock, graphed, new_stream
from parallelize.machine.latency import (
    WARM_UP,
    Call,
    Clock,
    Latency,
    Length,
    Moment,
    host_clock,
    in_rounds,
    in_turn,
)
from parallelize.models.capture import first_sentence

TURNS = 2  # that a network has which is loaded anew for each
_WARM_UP_SECONDS = 1.0  # of such a network, whose calls are long


@dataclass(frozen=True)
class Ready:
    """A network's call, what times it, and what was not as asked for."""

    call: Call
    clock: Clock
    cuda_graph: bool
    note: str = ""


@contextmanager
def timing_stream(runners: Iterable[Runner]) -> Iterator[torch.cuda.Stream | None]:
    """The current stream while the block lasts, where one of the networks runs on a GPU."""
    if all(runner.device.type != "cuda" for runner in runners):
        yield None
        return
    stream = new_stream()
    with torch.cuda.stream(stream):
        yield stream


def ready(
    runner: Runner, inputs: Sequence[torch.Tensor], stream: torch.cuda.Stream | None, *, cuda_graph: bool = True
) -> Ready:
    """Bind the inputs of a call.

    Args:
        runner: the network.
        inputs: on the CPU.
        stream: of `timing_stream`.
        cuda_graph: whether to hold the kernels in a CUDA graph.

    Raises:
        EnvironmentLackError: the machine lacks what the call needs.
    """
    call = runner.bound(inputs)
    if runner.device.type != "cuda" or stream is None:
        return Ready(call, host_clock, cuda_graph=False)
    clock = gpu_clock(stream)
    if not cuda_graph:
        return Ready(call, clock, cuda_graph=False)
    if not runner.graphable:
        return Ready(call, clock, cuda_graph=False, note=f"no CUDA graph: {runner.name} allocates in each run.")
    try:
        return Ready(graphed(call, stream), clock, cuda_graph=True)
    except RuntimeError as error:
        return Ready(call, clock, cuda_graph=False, note=f"no CUDA graph: {first_sentence(error)}.")


def latencies(runners: Mapping[str, Runner], samples: Samples, rounds: int) -> dict[str, Latency]:
    """Milliseconds of a call at batch 1 until the result is there, all networks in turn on the first samples."""
    single = samples.batch(1)
    with timing_stream(runners.values()) as stream:
        calls = {name: ready(runner, single, stream) for name, runner in runners.items()}
        return in_rounds({name: (each.call, each.clock) for name, each in calls.items()}, rounds)


def latencies_of_files(
    openers: Mapping[str, Callable[[], Runner]], samples: Samples, rounds: int
) -> dict[str, Latency]:
    """As `latencies`, of networks that are not in memory at once: A B A B, each opened for its turn and closed again.

    Args:
        openers: what opens each network.
        samples: of which the first are run.
        rounds: calls of each network that are counted, spread over its turns.
    """
    single, counted = samples.batch(1), {name: list[Moment]() for name in openers}
    turns = min(TURNS, rounds)
    for turn in range(turns):
        calls = rounds * (turn + 1) // turns - rounds * turn // turns
        for name, opened in openers.items():
            counted[name] += _turn(opened(), single, calls)
    return {name: Latency.of(moments) for name, moments in counted.items()}


def _turn(runner: Runner, inputs: Sequence[torch.Tensor], calls: int) -> list[Moment]:
    """Calls of one network, after as many that are not counted as a second has, 20 at most."""
    with timing_stream([runner]) as stream:
        network = ready(runner, inputs, stream)
        once = network.clock(network.call).host / 1e3
        warm_up = max(1, min(WARM_UP, int(_WARM_UP_SECONDS / max(once, 1e-9))))
        length = Length(calls=calls, warm_up_calls=warm_up)
        return in_turn({"": (network.call, network.clock)}, length)[""]
