"""Where time begins to grow with the number of layers: what does not grow, against what the branches compute and move.

On a GPU, by the project's cost model, a network of N fused branches takes

    t(N) = launch + outside + branches(N)      launch     t_graph + sum of t_fix
                                               outside    work of the kernels that are alike for one and two branches
                                               branches   work of the others: sum of max( bytes / bandwidth, tiles )

Its kernels are as many for every N, so the first two are constants. Time does not grow as long as the third is small
beside them, and the end is where it overtakes them, between two numbers of branches by a straight line. On a CPU the
same argument has two numbers, both measured apart from what they foretell:

    t(N) = operators c + N flops / r           c: time of one operator that computes next to nothing
                                               r: of products alone
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch

from benchmarks.paraformer_speed import in_turn, operators
from benchmarks.study.timing import Shape
from parallelize.models.capture import capture
from parallelize.models.clean import clean
from parallelize.predicting.kernel import Kernels
from parallelize.predicting.kernels import kernels
from parallelize.predicting.latency import Predictor
from parallelize.predicting.target import Target, load_target

_PRECISION = "bf16"


def predicted(shape: Shape, counts: tuple[int, ...], target: str = "h200") -> dict[str, Any]:
    """Microseconds of folded Para-Formers and serial networks by branches or blocks, as the cost model has them.

    Returns:
        `tokens`, `kernels`, `launch` and `outside` of a Para-Former, `branches` and `total` by the number of them;
        `serial` by blocks; `end`, the N at which branches overtake the rest, None where they do not within the counts.
    """
    gpu = load_target(target)
    networks = {count: launched_by(shape, count, serial=False) for count in counts}
    alike = _alike(networks[1], networks[2])
    launch, outside = _fixed(networks[1], gpu), _whole(alike, gpu) - _fixed(alike, gpu)
    total = {count: _whole(network, gpu) for count, network in networks.items()}
    branches = {count: value - launch - outside for count, value in total.items()}
    one, two = (_whole(launched_by(shape, count, serial=True), gpu) for count in (1, 2))
    return {
        "tokens": shape.tokens,
        "kernels": networks[1].count,
        "launch": round(launch, 3),
        "outside": round(outside, 3),
        "branches": {str(count): round(value, 3) for count, value in branches.items()},
        "total": {str(count): round(value, 3) for count, value in total.items()},
        "serial": {str(count): round(one + (count - 1) * (two - one), 3) for count in counts},
        "end": crossing(branches, dict.fromkeys(counts, launch + outside)),
    }


def crossing(rising: dict[int, float], other: dict[int, float]) -> float | None:
    """The count at which one curve overtakes another, on lines between their points; None where it does not."""
    first = min(rising)
    if rising[first] >= other[first]:
        return float(first)
    for before, after in pairwise(sorted(rising)):
        gaps = [rising[count] - other[count] for count in (before, after)]
        if gaps[1] >= 0:
            return round(before + (after - before) * -gaps[0] / (gaps[1] - gaps[0]), 1)
    return None


def launched_by(shape: Shape, count: int, *, serial: bool) -> Kernels:
    """The kernels of one sample in a serial network of so many blocks, or a folded Para-Former of so many branches."""
    network = shape.network(count, serial=True) if serial else shape.network(count).fold()
    program, _ = clean(capture(network, (shape.image(2),)))
    return kernels(program, {"batch": 1}, _PRECISION)


def _alike(one: Kernels, two: Kernels) -> Kernels:
    """The kernels that both launch."""
    counted = [Counter({launch.kernel: launch.times for launch in network.launches}) for network in (one, two)]
    return Kernels.of((counted[0] & counted[1]).elements(), one.precision)


def _whole(launched: Kernels, gpu: Target) -> float:
    return float(Predictor([launched], gpu.sms).microseconds(gpu)[0])


def _fixed(launched: Kernels, gpu: Target) -> float:
    """What the kernels take however small they are."""
    return gpu.graph_us + sum(launch.times * gpu.fixed_us[launch.kernel.kind] for launch in launched.launches)


@torch.inference_mode()
def on_cpu(shape: Shape, counts: tuple[int, ...], turns: int) -> dict[str, Any]:
    """What the two numbers of this CPU foretell of folded Para-Formers, in eager PyTorch.

    Returns:
        `operator_us` and `gflops`, measured on a network of next to no numbers and on products of the shape alone;
        `flops` of one branch, `operators`, `predicted_ms` by branches; `end`, the N at which products take as long as
        operators cost by themselves.
    """
    tiny = replace(shape, width=4, heads=1, hidden=4, side=2 * shape.patch)
    small = tiny.network(2).fold()
    image = shape.image()
    rows, branches = shape.tokens, 4
    left, right = torch.rand(branches, rows, shape.width), torch.rand(branches, shape.width, shape.hidden)
    taken = in_turn(
        {"tiny": partial(small, tiny.image()), "product": partial(torch.bmm, left, right)}, turns, time.thread_time
    )
    count = operators(shape.network(2).fold(), image)["computing"]
    per_operator = taken["tiny"] / operators(small, tiny.image())["computing"]
    rate = 2 * branches * rows * shape.width * shape.hidden / taken["product"] / 1e6
    outside, branch = _flops(shape)
    times = {n: count * per_operator + (outside + n * branch) / rate / 1e6 for n in counts}
    return {
        "operator_us": round(1e3 * per_operator, 3),
        "gflops": round(rate, 2),
        "flops": branch,
        "operators": count,
        "predicted_ms": {str(n): round(value, 4) for n, value in times.items()},
        "end": round((count * per_operator * 1e6 * rate - outside) / branch, 1),
    }


def _flops(shape: Shape) -> tuple[int, int]:
    """Of what is outside of the branches, and of one branch."""
    one, two = (launched_by(shape, count, serial=False).flops for count in (1, 2))
    return 2 * one - two, two - one
