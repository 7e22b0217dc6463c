"""What the latency study times: replays of CUDA graphs, candidates in turn, beside the floors of the card.

A floor is max(bytes of the weights / measured bandwidth, FLOPs / measured rate of matrix products). A network whose
weights stay in the card's cache between two replays may come below the first of the two.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.utils.flop_counter import FlopCounterMode

ROUND_SECONDS = 2e-3  # a candidate replays for about so long in each round, so that events resolve it
Call = Callable[[], object]


@dataclass(frozen=True)
class Ceilings:
    """What the card can do: bytes read and written by a copy per second, FLOPs per second of a large product."""

    bandwidth: float
    rate: float

    def floor(self, weight_bytes: int, flops: int) -> float:
        """Seconds that a network needs at least."""
        return max(weight_bytes / self.bandwidth, flops / self.rate)


def ceilings(dtype: torch.dtype, *, small: bool) -> Ceilings:
    """Measure this machine: a copy of 2 GiB and a product of 8192 x 8192 matrices, the best of several runs."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size, side = (2**22, 256) if small else (2**31, 8192)
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    copy = min(seconds(lambda: target.copy_(source), 10) for _ in range(3))
    product = min(seconds(lambda: matrix @ matrix, 10) for _ in range(3))
    return Ceilings(2 * size / copy, 2 * side**3 / product)


def weight_bytes(module: fx.GraphModule) -> int:
    """Bytes of the parameters that the graph reads, embeddings left out: of those a sample reads only rows."""
    tables = {
        node.args[0].target
        for node in module.graph.nodes
        if node.target is torch.ops.aten.embedding.default and isinstance(node.args[0], fx.Node)
    }
    names = {str(node.target) for node in module.graph.find_nodes(op="get_attr")} - {str(name) for name in tables}
    tensors = [module.get_parameter(name) for name in names if name in dict(module.named_parameters())]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def flops(call: Call) -> int:
    """Floating-point operations of the matrix products, convolutions and attentions of a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def seconds(call: Call, repeats: int) -> float:
    """Mean seconds of a call over `repeats`: by events on a GPU, by the clock elsewhere."""
    if not torch.cuda.is_available():
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - start) / repeats
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / repeats


def replay(call: Call) -> Call:
    """The call as a CUDA graph, after three plain runs; on a CPU the call itself."""
    if not torch.cuda.is_available():
        return call
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def in_turn(candidates: Mapping[str, Call], rounds: int) -> dict[str, list[float]]:
    """Seconds of one call of every candidate in each round, candidates in turn."""
    repeats = {}
    for name, call in candidates.items():
        seconds(call, 3)
        repeats[name] = max(1, round(ROUND_SECONDS / max(seconds(call, 3), 1e-6)))
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            times[name].append(seconds(call, repeats[name]))
    return times


def summary(values: Sequence[float]) -> dict[str, float]:
    """Microseconds: median, and the ninth decile over rounds."""
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    return {"median_us": statistics.median(values) * 1e6, "p90_us": deciles[-1] * 1e6}


def runner(module: fx.GraphModule, value: Tensor) -> Call:
    """A call of the graph on one input."""
    return lambda: module(value)
