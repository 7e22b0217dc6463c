"""What the search for one schedule and its refits cost, beside one forward pass over the calibration samples.

    python benchmarks/search_cost.py                      every row: hours on two cores
    python benchmarks/search_cost.py --only fashion-3     some of them
    python benchmarks/search_cost.py --checkout DIR --as NAME --limit 1800
                                                          the packages of another checkout, such as an older version,
                                                          each row stopped after half an hour
    python benchmarks/search_cost.py --page               the page alone, from the results that are kept

CPU seconds of one thread, each row in a process of its own. A forward pass is timed on the same samples, in batches,
before the search and after it, and the less is taken, which is least flattering. Memory is the peak of resident memory
(VmHWM) less that with model and data loaded. Results are kept in benchmarks/results/search_cost.json, and
docs/search_cost.md is written from them.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "search_cost.md"
NOW = "this version"
sys.path.insert(0, str(ROOT))

from benchmarks.rows import Rows, table_row, told  # noqa: E402


@dataclass(frozen=True)
class Row:
    """What is searched for.

    Attributes:
        what: for the page.
        task: of benchmarks/tasks, or "vit-base", a ViT-Base/16 of 224 x 224 pixels with random weights and images.
        samples: calibration samples, a fifth of them held out.
        depth: blocks.
    """

    what: str
    task: str
    samples: int
    depth: int
    metric: str


ROWS = {
    "fashion-6": Row("vision transformer, 12 blocks of width 64", "fashion", 2000, 6, "kl"),
    "fashion-3": Row("vision transformer, 12 blocks of width 64", "fashion", 2000, 3, "kl"),
    "minilm-3": Row("all-MiniLM-L6-v2, 6 blocks of width 384, 64 tokens", "minilm", 3000, 3, "cosine"),
    "vit-base-6": Row("ViT-Base, random weights, 12 blocks of width 768", "vit-base", 512, 6, "relative-l2"),
}


def main() -> None:
    """Measure what is asked for and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--checkout", type=Path, default=ROOT, help="whose packages are measured")
    parser.add_argument("--as", dest="name", default=NOW, help="what the results are called")
    parser.add_argument("--limit", type=float, help="CPU seconds after which a row is stopped")
    parser.add_argument("--page", action="store_true", help="write the page alone")
    parser.add_argument("--measure", choices=ROWS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(ROWS[arguments.measure], arguments.checkout.resolve())))
        return
    rows = Rows(ROOT / "benchmarks" / "results" / "search_cost.json", tuple(ROWS))
    for name in () if arguments.page else arguments.only:
        found = in_a_process(name, arguments.checkout, arguments.limit)
        rows.keep(name, {**rows.kept().get(name, {}), arguments.name: found})
        print(f"{name}, {arguments.name}: {found}", flush=True)
    PAGE.write_text(page(rows.kept()))


def in_a_process(name: str, checkout: Path, limit: float | None) -> dict[str, Any]:
    """Measure a row in a process of its own; only the limit where that ends it."""
    stop = [] if limit is None else ["prlimit", f"--cpu={limit:.0f}"]
    command = [*stop, sys.executable, __file__, "--measure", name, "--checkout", str(checkout)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=limit is None)
    return {"stopped_after": limit} if result.returncode else json.loads(result.stdout.splitlines()[-1])


def measure(row: Row, checkout: Path) -> dict[str, Any]:
    """Search once; everything that the page tells."""
    _import_from(checkout)
    import torch

    from benchmarks.resident import forget_peak, resident
    from parallelize.data.split import split
    from parallelize.machine.measured_on import machine
    from parallelize.models.clean import clean
    from parallelize.planning.options import PlannerOptions
    from parallelize.planning.planner import Planner

    torch.set_num_threads(1)
    program, samples = _loaded(row)
    program, _ = clean(program, samples.batch(4))
    data = split(samples, samples.head(2), 0)
    before = _forward_seconds(program.module, data)
    loaded = resident("VmRSS")
    forget_peak()
    start = time.process_time()
    planner = Planner(program, data.fit, data.held_out, row.metric, PlannerOptions())
    search = planner.at_depth(row.depth)
    seconds = time.process_time() - start
    peak = resident("VmHWM") - loaded
    forward = min(before, _forward_seconds(program.module, data))
    return {
        "samples": len(data.fit) + len(data.held_out),
        "depth": search.chosen.depth_blocks,
        "forward_seconds": round(forward, 2),
        "search_seconds": round(seconds, 1),
        "forward_passes": round(seconds / forward, 1),
        "counted_passes": round(getattr(search, "forward_passes", 0.0), 1) or None,
        "measured_groups": len(planner.costs.known),
        "error": search.chosen.scores.error(planner.metric),
        "interval": search.chosen.scores.interval(planner.metric),
        "peak_mb": round(peak / 1e6),
        "weights_mb": round(sum(p.nbytes for p in program.module.parameters()) / 1e6),
        "device": "cpu",
        "machine": machine(1),
    }


def _import_from(checkout: Path) -> None:
    """The benchmarks of this checkout, the packages of another."""
    sys.path.insert(0, str(ROOT))
    import benchmarks

    benchmarks.__path__ = [str(ROOT / "benchmarks")]
    sys.path.insert(0, str(checkout))


def _loaded(row: Row) -> Any:
    """The program of a row and its samples."""
    if row.task != "vit-base":
        from benchmarks.tasks import TASKS

        task = TASKS[row.task]()
        return task.program, task.calibration.head(row.samples)
    import torch

    from paraformer.model import VisionConfig, VisionParaFormer
    from parallelize.data import Samples
    from parallelize.models.capture import capture

    torch.manual_seed(0)
    config = VisionConfig(
        image_size=224, channels=3, patch_size=16, classes=1000, width=768, depth=12, heads=12, hidden=3072
    )
    program = capture(VisionParaFormer(config).eval(), (torch.zeros(1, *config.input_shape),), origin="ViT-Base")
    images = torch.rand(row.samples, *config.input_shape) * 255
    return program, Samples({program.inputs[0].name: images})


def _forward_seconds(module: Any, data: Any) -> float:
    import torch

    start = time.process_time()
    with torch.inference_mode():
        for part in (data.fit, data.held_out):
            for batch in part.batches(32):
                module(*batch)
    return time.process_time() - start


def page(results: dict[str, dict[str, Any]]) -> str:
    """docs/search_cost.md."""
    heads = (
        "model", "samples", "blocks deep", "version", "forward passes", "CPU seconds", "of one pass", "groups measured",
        "error on held-out samples", "peak memory, MB", "weights, MB", "device",
    )  # fmt: skip
    lines = [
        "# What a search costs",
        "",
        "The search for one schedule and all its refits, in CPU seconds of one thread, beside one forward pass of the",
        "model over the same calibration samples. `python benchmarks/search_cost.py` measures and writes this page.",
        "Memory: the peak of resident memory beyond that with model and data loaded. Plans are chosen, and errors are",
        "measured, on a fifth of the samples.",
        "",
        table_row(heads),
        "|" + "---|" * len(heads),
    ]
    machines = set()
    for name, versions in results.items():
        for version, found in versions.items():
            lines.append(table_row(_cells(ROWS[name], version, found)))
            if "machine" in found:
                machines.add(told(found["machine"]))
    return "\n".join([*lines, "", *(f"Measured {line}." for line in sorted(machines))]) + "\n"


def _cells(row: Row, version: str, found: dict[str, Any]) -> list[str]:
    first = [row.what, f"{row.samples:,}", str(row.depth), version]
    if "stopped_after" in found:
        return [*first, "", f"not done after {found['stopped_after']:,.0f}", "", "", "", "", "", "cpu"]
    low, high = found["interval"]
    return [
        *first,
        f"**{found['forward_passes']}**",
        f"{found['search_seconds']:,}",
        f"{found['forward_seconds']:,}",
        str(found["measured_groups"]),
        f"{row.metric} {found['error']:.4g} ({low:.4g} .. {high:.4g})",
        f"{found['peak_mb']:,}",
        f"{found['weights_mb']:,}",
        found["device"],
    ]


if __name__ == "__main__":
    main()
