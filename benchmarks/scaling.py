"""How branches on ranks scale: 1, 2 and 4 processes here against a prediction, and a model of thousands of GPUs.

    python benchmarks/scaling.py           measure and write the page: two minutes of two cores
    python benchmarks/scaling.py --page    the page alone, from the results that are kept

Measured with gloo, in turn: an all-reduce by its size, and one network scheduled in several forms. What the network
takes is predicted from two measurements, of an all-reduce and of what the busiest rank computes, alone. Results are
kept in benchmarks/results/scaling.json, and docs/scaling.md is written from them.
"""

import argparse
import os
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the packages are those of this checkout
os.environ["OMP_NUM_THREADS"] = "1"  # before torch: processes are forked

import torch  # noqa: E402
from torch import Tensor, fx  # noqa: E402

from benchmarks.rows import Rows  # noqa: E402
from benchmarks.scaling_page import page  # noqa: E402
from paraformer.model import VisionConfig, VisionParaFormer  # noqa: E402
from parallelize.machine.measured_on import machine  # noqa: E402
from parallelize.models.capture import capture  # noqa: E402
from parallelize.models.of_rank import spread_module  # noqa: E402
from passes.plan import Plan, grouped  # noqa: E402
from passes.registry import FUSION  # noqa: E402
from passes.runner import run_passes  # noqa: E402
from passes.schedule.apply_plan import ApplyPlan  # noqa: E402
from passes.spread.collectives import ALL_REDUCE  # noqa: E402
from passes.spread.spread_branches import SpreadBranches  # noqa: E402

CONFIG = VisionConfig(depth=8, width=256, heads=4, hidden=1024, image_size=32, patch_size=4)
FORMS = {
    "pairs, sublayer form": (2, "sublayer"),
    "pairs, block form": (2, "block"),
    "fours, block form": (4, "block"),
    "one level (Para-Former)": (8, "block"),
}
SIZES = (1 << 10, 1 << 13, 1 << 16, 1 << 18, 1 << 20)  # bytes of an all-reduce
PROCESSES, ROUNDS, CALLS, REDUCTIONS = (1, 2, 4), 4, 30, 150
GROUP = "0"  # the name of the default process group


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", action="store_true", help="write the page alone")
    rows = Rows(ROOT / "benchmarks" / "results" / "scaling.json", ("here",))
    if not parser.parse_args().page:
        rows.keep("here", measured())
    (ROOT / "docs" / "scaling.md").write_text(page(rows.kept()["here"]))


def measured() -> dict[str, Any]:
    """Everything that is measured here."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = 255 * torch.rand(1, CONFIG.channels, CONFIG.image_size, CONFIG.image_size)
    program = capture(VisionParaFormer(CONFIG).eval(), (images.repeat(2, 1, 1, 1),))
    graphs = {name: ranks_of(program.module, *form) for name, form in FORMS.items()}
    size = 4 * (CONFIG.image_size // CONFIG.patch_size) ** 2 * CONFIG.width
    alone = {
        name: {str(count): without_collectives(ranks[0]) for count, ranks in by_count.items()}
        for name, by_count in graphs.items()
    }
    computed: list[dict[str, dict[str, float]]] = []
    serial = run_passes(program.module, FUSION)[0]
    turns: list[float] = []
    found: dict[int, list[dict[str, Any]]] = {count: [] for count in PROCESSES}
    for _ in range(ROUNDS):
        turns.append(timed(serial, images))
        computed.append(
            {name: {count: timed(module, images) for count, module in each.items()} for name, each in alone.items()}
        )
        for count in PROCESSES:
            found[count].append(in_processes(count, graphs, images, size))
            print(count, found[count][-1], flush=True)
    return {
        "measured_on": machine(1),
        "load": os.getloadavg()[2],
        "size": size,
        "computed": {
            name: {count: min(turn[name][count] for turn in computed) for count in each} for name, each in alone.items()
        },
        "levels": {name: reductions(by_count[2][0]) for name, by_count in graphs.items()},
        "took": {
            name: {
                str(count): min(each[name] for each in found[count]) for count in PROCESSES if name in found[count][0]
            }
            for name in FORMS
        },
        "reduced": {
            str(count): {str(each): min(turn["all-reduce"][each] for turn in found[count]) for each in (*SIZES, size)}
            for count in PROCESSES[1:]
        },
        "serial": min(turns),
    }


def ranks_of(serial: fx.GraphModule, group: int, form: Any) -> dict[int, list[fx.GraphModule]]:
    """For each number of processes that have branches the graph of each of them, fused."""
    blocks = [[2 * block, 2 * block + 1] for block in range(CONFIG.depth)]
    groups = [blocks[start : start + group] for start in range(0, CONFIG.depth, group)]
    scheduled, _ = run_passes(serial, [ApplyPlan(Plan((grouped(2 * CONFIG.depth, groups, form),)))])
    found = {1: [run_passes(scheduled, FUSION)[0]]}
    for count in (count for count in PROCESSES[1:] if count <= group):
        steps = [SpreadBranches(rank, count, GROUP) for rank in range(count)]
        found[count] = [spread_module(scheduled, step)[0] for step in steps]
    return found


def reductions(module: fx.GraphModule) -> int:
    """All-reduces of a call."""
    return len(module.graph.find_nodes(op="call_function", target=ALL_REDUCE))


def without_collectives(module: fx.GraphModule) -> fx.GraphModule:
    """What a rank computes between them."""
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        is_reduction = node.op == "call_function" and "_c10d_functional" in str(node.target)
        values[node] = values[node.args[0]] if is_reduction else graph.node_copy(node, values.__getitem__)
    graph._codegen = module.graph._codegen
    return fx.GraphModule(module, graph)


def timed(module: Callable[[Tensor], object], images: Tensor, calls: int = CALLS) -> float:
    """Milliseconds of the quickest call, which other work on the machine disturbs least."""
    with torch.inference_mode():
        times = []
        for _ in range(calls + 3):
            start = time.perf_counter()
            module(images)
            times.append(time.perf_counter() - start)
    return 1e3 * min(times[3:])


def in_processes(count: int, graphs: Any, images: Tensor, size: int) -> dict[str, Any]:
    """What so many processes take for each form that has a branch for each of them, as rank 0 sees it."""
    context = get_context("fork")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    here, there = context.Pipe()
    processes = [
        context.Process(target=work, args=(rank, count, port, graphs, images, size, there)) for rank in range(count)
    ]
    for process in processes:
        process.start()
    found: dict[str, Any] = here.recv() if here.poll(300) else {}
    for process in processes:
        process.join(30)
    assert found, "a process did not answer"
    return found


def work(rank: int, count: int, port: int, graphs: Any, images: Tensor, size: int, there: Connection) -> None:
    """One process."""
    from torch import distributed

    address = f"tcp://127.0.0.1:{port}"
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=count)
    assert distributed.group.WORLD.group_name == GROUP
    found: dict[str, Any] = {}
    for name, by_count in graphs.items():
        if count in by_count:
            distributed.barrier()
            found[name] = timed(by_count[count][rank], images)
    if count > 1:
        found["all-reduce"] = {each: all_reduces(each) for each in (*SIZES, size)}
    if rank == 0:
        there.send(found)
    distributed.barrier()
    distributed.destroy_process_group()


def all_reduces(size: int) -> float:
    """Milliseconds of the quickest."""
    from torch import distributed

    value = torch.zeros(size // 4)
    distributed.barrier()
    times = []
    for _ in range(REDUCTIONS):
        start = time.perf_counter()
        torch.ops._c10d_functional.wait_tensor(ALL_REDUCE(value, "sum", GROUP))
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


if __name__ == "__main__":
    main()
