"""What a whole conversion costs, stage by stage: search, refits, rivals, judging, ONNX files and timing.

    python benchmarks/conversion_cost.py                     every row: an hour of two cores
    python benchmarks/conversion_cost.py --only demo         some of them
    python benchmarks/conversion_cost.py --threads 1         with one thread
    python benchmarks/conversion_cost.py --page              the page alone, from the results that are kept

Each row is one call of `parallelize convert` in a process of its own, as the memory benchmark watches it; its progress
lines tell the stages. Results are kept in benchmarks/results/conversion_cost.json, and docs/conversion_cost.md is
written from them.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the packages are those of this checkout

from benchmarks.memory import Stage, watched  # noqa: E402
from benchmarks.rows import Rows, table_row, told  # noqa: E402

PAGE = ROOT / "docs" / "conversion_cost.md"
SHIPPED = ROOT / "examples" / "fashion_vit"
IMAGES = 256


@dataclass(frozen=True)
class Row:
    """A conversion: what it is for the page, and the arguments of the command, whose inputs are written to a folder."""

    what: str
    arguments: Callable[[Path], list[str]]


def demo(_folder: Path) -> list[str]:
    """As `make demo` does."""
    data = ("--inputs", SHIPPED / "calibration.npz", "--test-inputs", SHIPPED / "test.npz", "--labels", "labels")
    return [str(word) for word in (SHIPPED / "vit12.pt", *data, "--depth", 3)]


def vit_base(folder: Path) -> list[str]:
    """ViT-Base/16 of 224 x 224 pixels with random weights, on random images."""
    import numpy as np
    import torch

    from paraformer.checkpoint import Checkpoint, save
    from paraformer.model import VisionConfig, VisionParaFormer

    torch.manual_seed(0)
    config = VisionConfig(
        image_size=224, channels=3, patch_size=16, classes=1000, width=768, depth=12, heads=12, hidden=3072
    )
    save(folder / "vit.pt", Checkpoint(config, VisionParaFormer(config).state_dict()))
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, *config.input_shape), dtype=np.uint8)
    np.savez(folder / "vit.npz", images=images)
    return [str(folder / "vit.pt"), "--inputs", str(folder / "vit.npz"), "--depth", "6", "--rounds", "20"]


ROWS = {
    "demo": Row("the shipped ViT, 12 blocks of width 64, 2,000 + 2,000 images, 3 deep (`make demo`)", demo),
    "vit-base": Row(f"ViT-Base, random weights, 12 blocks of width 768, {IMAGES} images, 6 deep", vit_base),
}


def main() -> None:
    """Measure what is asked for and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch")
    parser.add_argument("--page", action="store_true", help="write the page alone")
    arguments = parser.parse_args()
    rows = Rows(ROOT / "benchmarks" / "results" / "conversion_cost.json", tuple(ROWS))
    for name in () if arguments.page else arguments.only:
        rows.keep(name, measured(ROWS[name], arguments.threads))
        print(name, {key: value for key, value in rows.kept()[name].items() if key != "stages"}, flush=True)
    PAGE.write_text(page(rows.kept()))


def measured(row: Row, threads: int) -> dict[str, Any]:
    """Convert once; everything that the page tells."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        output = folder / "out" / "made"
        call = [sys.executable, "-m", "parallelize", "convert", *row.arguments(folder), "-o", str(output)]
        stages, cpu = watched(call, folder)
        report = json.loads((output / "report.json").read_text())
    seconds: dict[str, float] = {}
    for stage in stages:
        name = stage_name(stage)
        seconds[name] = seconds.get(name, 0.0) + stage.seconds
    return {
        "threads": threads,
        "cpu_seconds": round(cpu),
        "wall_seconds": round(sum(stage.seconds for stage in stages)),
        "peak_mb": round(max(stage.resident for stage in stages) / 1e6),
        "forward_passes": round(report["forward_passes"], 1),
        "stages": {name: round(taken, 1) for name, taken in seconds.items()},
        "measured_on": report["measured_on"],
    }


def stage_name(stage: Stage) -> str:
    """What a progress line says, without its numbers and without the name of a network."""
    words = stage.what.split(" of '")[0].split(" '")[0].split(",")[0].rstrip(" ")
    return "measuring whole networks" if words.startswith("measuring") and words.endswith("deep") else words


def page(results: dict[str, dict[str, Any]]) -> str:
    """docs/conversion_cost.md."""
    lines = [
        "# What a whole conversion costs",
        "",
        "One call of `parallelize convert` from the first import to the last file, measured by",
        "`python benchmarks/conversion_cost.py`, which writes this page. Forward passes are those of the search and",
        "its refits, over the samples that fit and choose.",
        "",
        "| conversion | threads | CPU seconds | seconds | forward passes | peak memory, MB |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in results.items():
        cells = (found[key] for key in ("threads", "cpu_seconds", "wall_seconds", "forward_passes", "peak_mb"))
        lines.append(table_row((ROWS[name].what, *(f"{cell:,}" for cell in cells))))
    lines += ["", "Seconds by stage, the longest first:", ""]
    for name, found in results.items():
        stages = sorted(found["stages"].items(), key=lambda stage: -stage[1])[:8]
        lines.append(f"- {name}: {'; '.join(f'{what} {taken:.0f}' for what, taken in stages)}")
    lines += ["", *(f"Measured: {name}, {told(found['measured_on'])}.\n" for name, found in results.items())]
    return "\n".join(lines).rstrip("\n") + "\n"


if __name__ == "__main__":
    main()
