"""docs/scaling.md: how branches on ranks scale, measured here and foretold for thousands of GPUs."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from benchmarks.rows import table_row, told
from parallelize.predicting.all_reduce import H200, microseconds, simulated
from parallelize.predicting.many_devices import Layout, Transformer, step
from parallelize.predicting.target import load_target

NETWORKS = (  # The Llama 3 Herd of Models, arXiv 2407.21783, table 3
    Transformer("Llama 3 8B", blocks=32, width=4096, heads=32, kv_heads=8, hidden=14336),
    Transformer("Llama 3 70B", blocks=80, width=8192, heads=64, kv_heads=8, hidden=28672),
)
DEVICES = (1, 2, 4, 8, 16, 64, 256, 1024, 4096)
GROUPS = (2, 8)


def page(found: dict[str, Any]) -> str:
    """The page."""
    return "\n".join([*_introduction(), *_here(found), *_far(), *_limits(), told(found["measured_on"]), ""])


def _introduction() -> Iterator[str]:
    yield """# How branches on ranks scale

A level's branches read one state and are added up, so they can lie on different devices: each computes its own
branches, one all-reduce adds what all of them add, and the state is the same everywhere again
(`torchrun ... parallelize run`, [commands](commands.md#run)). This page says how many all-reduces a network waits for,
whether a prediction from one process and one all-reduce holds for 1, 2 and 4 processes here, and what the same
arithmetic says for thousands of GPUs.

## All-reduces of a token

B blocks of an attention and an MLP, g of them on a level, a level's work shared by p devices; t devices share a block.

| network | all-reduces of a forward pass | B = 32, pairs |
|---|---|---|
| serial, tensor parallel (Megatron-LM, [1909.08053](https://arxiv.org/abs/1909.08053)) | 2 B over p | 64 |
| sublayer form, the heads and hidden units of a level cut among p | 2 B / g over p | 32 |
| block form, a branch to a device (p = g) | B / g over p | 16 |
| block form, a branch to t devices (p = g t) | B / g over p, B / g over t | 16 + 16 |
| one level (Para-Former), a branch to a device (p = B) | 1 | 1 |

So pairs in sublayer form wait half as often as tensor parallelism of the serial network, which is what LP
([2502.02790](https://arxiv.org/abs/2502.02790)) builds on; pairs in block form a quarter as often on two devices.
Training doubles every number: what the branches read collects its gradients in one all-reduce for each level.
"""


def _here(found: dict[str, Any]) -> Iterator[str]:
    cores = found["measured_on"]["cores"]
    yield f"""## Predicted and measured here

A vision transformer of 8 blocks, width 256, 64 tokens, batch 1, float32, scheduled in four forms, its own branches
fused on every rank; gloo over the loopback, one thread to a process; the quickest of 120 calls and of 600 all-reduces,
in turn, which other work disturbs least (the load average was {found["load"]:.0f}). An all-reduce takes a + n b, fitted
to what it took for {len(next(iter(found["reduced"].values()))) - 1} sizes; the prediction is

    levels * (a + n b) + what the busiest rank computes, measured alone

**{cores} cores: of 4 processes two share a core, so computing counts {4 / cores:g} times for them.** What
processes that compute at the same time take from each other (caches, memory, the clock) is not in the sum, and the
last column shows that it counts on one machine: of the sum only the all-reduce was measured under the same conditions.
"""
    if found["load"] > 2 * cores:
        yield f"""**The machine was not idle** (load average {found["load"]:.0f}, a few of it these processes): more
processes get more of the cores then, so several look quicker than they are, and the ratios of the last column are as
uneven as that load. Measure again on an idle machine before anything is concluded from them.
"""
    yield "| processes | a, ms | n b for a state, ms | measured for a state, ms |"
    yield "|---|---|---|---|"
    fits = {count: fitted(times) for count, times in found["reduced"].items()}
    for count, (start, slope) in fits.items():
        reduced = found["reduced"][count][str(found["size"])]
        yield table_row([count, f"{start:.3f}", f"{slope * found['size']:.3f}", f"{reduced:.3f}"])
    yield ""
    yield f"The serial network, fused, takes {found['serial']:.2f} ms in one process."
    yield ""
    yield "| form | processes | all-reduces | computing, ms | predicted, ms | measured, ms | measured / predicted |"
    yield "|---|---|---|---|---|---|---|"
    for name, times in found["took"].items():
        for count, took in times.items():
            computing = found["computed"][name][count] * max(1.0, int(count) / cores)
            levels = 0 if count == "1" else found["levels"][name]
            start, slope = fits.get(count, (0.0, 0.0))
            predicted = computing + levels * (start + slope * found["size"])
            ratio = f"{took / predicted:.2f}"
            yield table_row([name, count, levels, f"{computing:.2f}", f"{predicted:.2f}", f"{took:.2f}", ratio])
    yield ""


def fitted(times: dict[str, float]) -> tuple[float, float]:
    """A and b of a + n b by least squares of relative errors, neither below zero."""
    sizes, took = (np.array([float(value) for value in each]) for each in (times.keys(), times.values()))
    columns = np.stack([np.ones_like(sizes), sizes], 1) / took[:, None]
    start, slope = np.linalg.lstsq(columns, np.ones_like(took), rcond=None)[0]
    return max(float(start), 0.0), max(float(slope), 0.0)


def _far() -> Iterator[str]:
    target = load_target("h200")
    yield f"""## Thousands of GPUs, simulated

One token at batch 1 in bf16, 1,024 tokens attended to, on {target.gpu}s: kernels as measured on one and predicted by
[the cost model](targets.md), all-reduces by the formulas and constants of NCCL's own tuner (2.30.7,
[src/graph/tuning.cc](https://github.com/NVIDIA/nccl/blob/master/src/graph/tuning.cc)): a ring or a tree, in the
protocol for small or for large messages, whichever is quickest. Links: NVLink, 450 GB/s in one direction (900 in both,
[H200](https://www.nvidia.com/en-us/data-center/h200/)), in nodes of 8, and a port of 400 Gb/s for each GPU
([ConnectX-7](https://docs.nvidia.com/networking/display/ConnectX7VPI/Introduction)). Reductions in switches (NVLS,
SHARP) are left out, and nothing is hidden behind anything else. Networks: the shapes of Llama 3
([2407.21783](https://arxiv.org/abs/2407.21783), table 3), without embedding and head.
"""
    yield "| GPUs | all-reduce of a state of width 8192, us | sent message by message, us |"
    yield "|---|---|---|"
    for count in DEVICES[1:]:
        alone, sent = microseconds(H200, count, 2 * 8192), simulated(H200, 2 * 8192, np.zeros(count)).max()
        yield table_row([f"{count:,}", f"{alone:.1f}", f"{sent:.1f}"])
    yield ""
    for network in NETWORKS:
        yield from _network(network)


def _network(network: Transformer) -> Iterator[str]:
    target = load_target("h200")
    yield f"**{network.name}**: milliseconds of a token, and of these in all-reduces (how many)."
    yield ""
    layouts = [
        ("serial", "serial", 1),
        *((f"sublayer, groups of {group}", "sublayer", group) for group in GROUPS),
        ("sublayer, one group", "sublayer", network.blocks),
        *((f"block, groups of {group}", "block", group) for group in GROUPS),
        ("one level", "block", network.blocks),
    ]
    yield table_row(["GPUs", *(name for name, *_ in layouts)])
    yield "|---" * (1 + len(layouts)) + "|"
    for count in sorted({*DEVICES, *(network.blocks * cut for cut in (1, 8, network.heads))}):
        cells = []
        for layout in (Layout(form, group, count) for _, form, group in layouts):
            if not layout.fits(network):
                cells.append("")
                continue
            took = step(network, layout, target, H200)
            number = sum(layout.all_reduces(network).values())
            cells.append(f"{took.total / 1e3:.2f}, {took.reducing / 1e3:.2f} ({number})")
        yield table_row([f"{count:,}", *cells])
    yield ""


def _limits() -> Iterable[str]:
    return [
        """Cells are empty where a GPU would have less than a head, or groups do not divide the blocks or the GPUs: the
serial network ends at as many GPUs as it has heads, and a level of g branches at g times as many. Three things follow.

- Where all-reduces cross nodes they outweigh the kernels of the serial network, so more GPUs make it slower; a network
  of fewer levels waits for fewer of them and goes on gaining.
- For the same number of all-reduces the block form shares them among fewer GPUs, so half of them stay inside a node.
- Memory falls as work does: a rank holds its own branches, and what lies outside of the levels.

**What this leaves out.** What a schedule costs in accuracy, which decides how large groups can be: pairs cost little
and one level of a deep pretrained network a lot ([results](results.md)). Congestion, stragglers and the start of a
collective by the host. Tensor parallelism inside a branch, which `run` does not do: it gives each rank whole branches.
No GPU ran any of it; what ran is above.
"""
    ]
