"""Accuracy and latency of the shipped vision transformer at every depth, beside deletion to the same depth.

    python benchmarks/fashion_depths.py [DEPTH ...]

One search over the calibration images finds a plan for each depth; `convert` replays it, refits it without any gradient
step and judges it on the shipped test images, which neither the search nor the refits see. Latency is ONNX
Runtime on the CPU at batch 1. Writes benchmarks/results/fashion_depths.{json,md}.
"""

import json
import sys
import tempfile
from pathlib import Path

from parallelize.conversion.convert import convert
from parallelize.conversion.options import ConvertOptions
from parallelize.data import load_samples
from parallelize.data.split import split
from parallelize.models.sources import LoadOptions, load_program
from parallelize.planning.planner import Planner

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "examples" / "fashion_vit"
RESULTS = ROOT / "benchmarks" / "results"
COLUMNS = ("rewrite, as is", "rewrite, refitted", "deletion, as is", "deletion, refitted")


def planner() -> Planner:
    """A planner on the calibration images."""
    program = load_program(str(MODEL / "vit12.pt"), LoadOptions())
    samples = load_samples(MODEL / "calibration.npz", program.inputs)
    data = split(samples, load_samples(MODEL / "test.npz", program.inputs), 0)
    return Planner(program, data.fit, data.held_out, "kl", progress=say)


def say(what: str, done: int, total: int) -> None:
    """One line for every tenth group."""
    if done % 10 == 0:
        print(f"{what}: {done} of {total}", flush=True)


def groups(plan: dict) -> str:
    """Blocks of each group, such as "0 / 1-3 / 4-11"; [0-3][4-11] is one in GPT-J form, (0-3) one in block form."""
    found = []
    for level in plan["stacks"][0]["levels"]:
        terms = sorted(term for chain in level for term in chain)
        run = str(terms[0] // 2) if terms[0] // 2 == terms[-1] // 2 else f"{terms[0] // 2}-{terms[-1] // 2}"
        kinds = {term % 2 for term in terms}
        if any(len(chain) > 1 for chain in level):
            found.append(f"({run})")
        elif kinds == {0, 1} and found and found[-1].count("[") == 1:
            found[-1] += f"[{run}]"
        elif kinds == {0, 1}:
            found.append(f"[{run}]")
        elif kinds == {0}:
            found.append(run)
    return " / ".join(found)


def row(report: dict, depth: int) -> str:
    """One line of the table."""
    networks = {network["name"]: network for network in report["networks"]}
    serial, rewrite = networks["serial"], networks["rewrite, refitted"]
    cells = [str(depth), groups(report["plan"])]
    cells += [f"{networks[name]['scores']['top1']:.2%}" for name in COLUMNS]
    cells.append(f"{100 * (serial['scores']['top1'] - rewrite['scores']['top1']):.2f}")
    times = [network["onnxruntime_ms"]["median"] for network in (serial, rewrite, networks[COLUMNS[3]])]
    cells += [f"{time:.2f}" for time in times]
    return "| " + " | ".join([*cells, f"{times[0] / times[1]:.2f}x"]) + " |"


def main() -> None:
    """Measure and write."""
    depths = [int(text) for text in sys.argv[1:]] or [1, 2, 3, 4, 5, 6, 7, 8, 10]
    reports = {}
    planning = planner()
    for depth in depths:
        plan = planning.measure(depth).plan
        with tempfile.TemporaryDirectory() as scratch:
            result = convert(
                MODEL / "vit12.pt",
                Path(scratch) / "out",
                inputs=MODEL / "calibration.npz",
                test_inputs=MODEL / "test.npz",
                labels="labels",
                options=ConvertOptions(plan=plan),
            )
        reports[depth] = {**result.report.as_dict(), "model": str(MODEL.relative_to(ROOT) / "vit12.pt")}
        print(row(reports[depth], depth), flush=True)
    write(reports)


def write(reports: dict[int, dict]) -> None:
    """Write the reports as they are, and one table of them."""
    first = next(iter(reports.values()))
    serial = first["networks"][0]["scores"]["top1"]
    heads = ("depth", "groups of blocks", *COLUMNS, "points lost", "serial ms", "rewrite ms", "deletion ms", "speed-up")
    lines = [
        "# The shipped vision transformer at every depth",
        "",
        f"Serial: 12 blocks, top-1 {serial:.2%} on {first['data']['judge']} test images.",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
        *(row(report, depth) for depth, report in reports.items()),
        "",
        "[a][b] is one group in GPT-J form: attentions and MLPs of blocks a side by side, then those of blocks b.",
        "(a) is one group in block form: each block on a state of its own. A block that no group names is deleted.",
        "",
        "Latency: ONNX Runtime, CPU, batch 1, median; networks of one row were timed in turn.",
        "",
        *(f"- {key}: {value}" for key, value in first["measured_on"].items()),
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "fashion_depths.md").write_text("\n".join(lines) + "\n")
    (RESULTS / "fashion_depths.json").write_text(json.dumps(reports, indent=1) + "\n")


if __name__ == "__main__":
    main()
