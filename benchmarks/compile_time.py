"""What the compiler itself costs, in time and memory.

    python benchmarks/compile_time.py            minutes to an hour: exporting 2,000 blocks takes longest
    python benchmarks/compile_time.py --quick    small models, one minute; nothing is written

1. ViT-Base: capture, clean, find stacks, rewrite and fuse, against torch.export.export alone, in turn in one process.
2. The same in memory: the peak of resident memory (VmHWM, reset before) less resident memory with the model loaded,
   each in a process of its own, relative to the bytes of the weights.
3. Narrow networks of up to 2,000 blocks: how time grows with depth, without the export itself.

Times are CPU seconds of one thread, so that a busy machine does not count as a slow compiler. Every process first
compiles a tiny model, so that no import is measured. Results are written to benchmarks/results/compile_time.md.
"""

import argparse
import datetime as dt
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the packages are those of this checkout

from benchmarks.resident import forget_peak, resident  # noqa: E402
from paraformer.model import VisionConfig, VisionParaFormer  # noqa: E402
from parallelize.models.capture import capture, from_exported  # noqa: E402
from parallelize.models.clean import clean  # noqa: E402
from parallelize.models.program import Program  # noqa: E402
from passes.graph.agreement import largest_change  # noqa: E402
from passes.graph.outputs import flat_outputs  # noqa: E402
from passes.plan import Plan, grouped  # noqa: E402
from passes.registry import FUSION  # noqa: E402
from passes.runner import run_passes  # noqa: E402
from passes.schedule.apply_plan import ApplyPlan  # noqa: E402
from passes.stacks.find import Stack, find_stacks  # noqa: E402

PAGE = ROOT / "benchmarks" / "results" / "compile_time.md"
STEPS = ("clean", "find stacks", "rewrite", "fuse")
DEPTH_STEPS = ("read", *STEPS)  # "read": the exported program becomes a flat graph
WAYS = {"export": 0, "pairs": 2, "groups of 4": 4}  # how many neighbouring blocks run side by side
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
SMALL = {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 768}


# ------------------------------------------------------------------------------------------------- what is measured


def vit(sizes: dict[str, int]) -> tuple[nn.Module, Tensor]:
    """A ViT of Hugging Face with random weights, 224 pixels in patches of 16, and an input."""
    from transformers import ViTConfig, ViTModel

    return ViTModel(ViTConfig(**sizes), add_pooling_layer=False).eval(), torch.zeros(3, 3, 224, 224)


def narrow(blocks: int) -> tuple[nn.Module, Tensor]:
    """A vision transformer of width 16 on 4 tokens, and an input."""
    config = VisionConfig(depth=blocks, width=16, heads=2, hidden=32, image_size=8, patch_size=4)
    return VisionParaFormer(config).eval(), torch.zeros(3, 1, 8, 8)


def export(model: nn.Module, example: Tensor) -> ExportedProgram:
    """torch.export.export alone, the batch left free."""
    return torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim.AUTO},), strict=False)


def in_groups(stack: Stack, size: int) -> Plan:
    """Neighbouring blocks `size` by `size`, in sublayer form."""
    blocks = stack.blocks
    groups = [blocks[i : i + size] for i in range(0, len(blocks), size)]
    return Plan((grouped(len(stack.terms), groups),))


def compiled(program: Program, size: int) -> tuple[dict[str, float], list[torch.fx.GraphModule]]:
    """CPU seconds of each step after capture, and the graph after each of the last two."""
    times, clock = [], time.process_time
    times.append(clock())
    cleaned, _ = clean(program)
    times.append(clock())
    (stack,) = find_stacks(cleaned.module).stacks
    times.append(clock())
    rewritten, _ = run_passes(cleaned.module, [ApplyPlan(in_groups(stack, size))])
    times.append(clock())
    fused, (record, *_) = run_passes(rewritten, FUSION)
    times.append(clock())
    if len(record.matches) != 2 * len(range(0, len(stack.blocks), size)):
        raise RuntimeError(f"fused {len(record.matches)} levels of {len(stack.blocks)} blocks in groups of {size}")
    return dict(zip(STEPS, (b - a for a, b in pairwise(times)), strict=True)), [rewritten, fused]


def everything(model: nn.Module, example: Tensor, size: int) -> dict[str, float]:
    """CPU seconds of capture and of each step after it."""
    start = time.process_time()
    program = capture(model, (example,))
    taken = time.process_time() - start
    return {"capture": taken, **compiled(program, size)[0]}


def warm_up() -> None:
    """Import and initialise whatever is imported and initialised late."""
    model, example = narrow(4)
    export(model, example)
    everything(model, example, 2)


# --------------------------------------------------------------------------------------------------- the three parts


def measure_time(sizes: dict[str, int], rounds: int) -> dict:
    """Export alone and each way to compile, in turn: the median of each, and of every step."""
    model, example = vit(sizes)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, size in WAYS.items():
            gc.collect()
            start = time.process_time()
            if not size:
                export(model, example)
            steps = everything(model, example, size) if size else {}
            found[way].append({"total": time.process_time() - start, **steps})
    return {way: {s: statistics.median(run[s] for run in runs) for s in runs[0]} for way, runs in found.items()}


def measure_memory(sizes: dict[str, int], way: str) -> dict:
    """The peak of one way to compile, in bytes beyond the loaded model."""
    model, example = vit(sizes)
    gc.collect()
    forget_peak()
    loaded = resident("VmRSS")
    if size := WAYS[way]:
        everything(model, example, size)
    else:
        export(model, example)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    return {"weights": weights, "peak": resident("VmHWM") - loaded}


def measure_depth(blocks: int) -> dict:
    """Every step on a narrow network in pairs; how much fusion changed the outputs; levels and nodes."""
    model, example = narrow(blocks)
    start = time.process_time()
    exported = export(model, example)
    between = time.process_time()
    program = from_exported(exported, "narrow")
    after = time.process_time()
    steps, (rewritten, fused) = compiled(program, WAYS["pairs"])
    pixels = [torch.rand(2, *example.shape[1:], generator=torch.Generator().manual_seed(0)) * 255]
    error = largest_change(flat_outputs(rewritten, pixels), flat_outputs(fused, pixels))
    before = {"torch.export": between - start, "read": after - between}
    return {"blocks": blocks, **before, **steps, "error": error, "nodes": len(program.module.graph.nodes)}


# --------------------------------------------------------------------------------------------------------- the report


def time_lines(times: dict) -> list[str]:
    """The table of part 1."""
    base = times["export"]["total"]
    lines = ["| | CPU seconds | times torch.export | capture | " + " | ".join(STEPS) + " |", "|---" * 8 + "|"]
    for way, steps in times.items():
        cells = [f"{steps[step]:.2f}" if step in steps else "" for step in ("capture", *STEPS)]
        lines.append(f"| {way} | {steps['total']:.2f} | {steps['total'] / base:.2f} | " + " | ".join(cells) + " |")
    return lines


def memory_lines(memory: dict[str, dict]) -> list[str]:
    """The table of part 2."""
    lines = ["| | peak beyond the loaded model, MB | times the weights |", "|---" * 3 + "|"]
    for way, found in memory.items():
        lines.append(f"| {way} | {found['peak'] / 1e6:.0f} | {found['peak'] / found['weights']:.2f} |")
    return lines


def depth_lines(rows: Sequence[dict]) -> list[str]:
    """The table of part 3; growth is against the row before."""
    heads = ("blocks", "nodes", *DEPTH_STEPS, "together", "growth", "change by fusion", "torch.export")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    before = None
    for row in rows:
        total = sum(row[step] for step in DEPTH_STEPS)
        growth = f"{total / before:.2f}" if before else ""
        steps = " | ".join(f"{row[step]:.2f}" for step in DEPTH_STEPS)
        lines.append(
            f"| {row['blocks']} | {row['nodes']} | {steps} | {total:.2f} | {growth} | {row['error']:.0e}"
            f" | {row['torch.export']:.1f} |"
        )
        before = total
    return lines


def report(times: dict, memory: dict[str, dict], rows: Sequence[dict], rounds: int) -> str:
    """The page."""
    weights = memory["export"]["weights"] / 1e6
    lines = [
        "# The cost of the compiler itself",
        "",
        "CPU seconds of one thread; written by `python benchmarks/compile_time.py`.",
        "",
        "## ViT-Base, time",
        "",
        f"Random weights, 12 blocks in sublayer form, fused; medians of {rounds} rounds, in turn. Everything from the",
        "module to the fused graph, capture included, against torch.export.export alone.",
        "",
        *time_lines(times),
        "",
        "## ViT-Base, memory",
        "",
        f"Weights: {weights:.0f} MB. Peak of resident memory (VmHWM, reset before the start) less resident memory with",
        "the model loaded and all libraries warm; a process for each row. The fused weights are part of it.",
        "",
        *memory_lines(memory),
        "",
        "## Depth",
        "",
        "Attention and MLP of width 16, neighbouring blocks in pairs, fused. **read** makes a flat graph of the",
        "exported program; **together** is everything but torch.export; **growth** is against the row above, with half",
        "the blocks.",
        "",
        *depth_lines(rows),
        "",
        f"- date: {dt.datetime.now(dt.timezone.utc).isoformat(timespec='seconds')}",
        f"- machine: {processor()}, {os.cpu_count()} cores, {platform.platform()}",
        f"- python {platform.python_version()}, torch {version('torch')}, transformers {version('transformers')}",
        "",
    ]
    return "\n".join(lines)


def processor() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())


def apart(*arguments: str) -> dict:
    """One part in a fresh process."""
    print(" ".join(arguments), flush=True)
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure each part in its own process, print and keep the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small models; nothing is written")
    parser.add_argument("--blocks", type=int, nargs="+", help="depths of the narrow network")
    parser.add_argument("--part", choices=("time", "memory", "depth"), help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=list(WAYS), default="export", help=argparse.SUPPRESS)
    options = parser.parse_args()
    rounds = 3 if options.quick else 7
    small = ["--quick"] if options.quick else []
    if options.part:
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        warm_up()
        sizes = SMALL if options.quick else BASE
        parts: dict[str, Callable[[], dict]] = {
            "time": lambda: measure_time(sizes, rounds),
            "memory": lambda: measure_memory(sizes, options.way),
            "depth": lambda: measure_depth(options.blocks[0]),
        }
        print(json.dumps(parts[options.part]()))
        return
    depths = options.blocks or ([50, 100] if options.quick else [250, 500, 1000, 2000])
    times = apart("--part", "time", *small)
    memory = {way: apart("--part", "memory", "--way", way, *small) for way in WAYS}
    rows = [apart("--part", "depth", "--blocks", str(blocks)) for blocks in depths]
    page = report(times, memory, rows, rounds)
    print(page)
    if not options.quick:
        PAGE.write_text(page)


if __name__ == "__main__":
    main()
