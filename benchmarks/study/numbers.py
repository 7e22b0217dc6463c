"""What the page and its figures read out of the rows: scores by seed, their mean and spread."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.study.runs import SIZES, Results, Scale, Way

_H200 = Path(__file__).resolve().parents[1] / "results" / "gpu_latency.json"


def current(results: Results, scale: Scale) -> dict[str, Any]:
    """The rows that are of these sizes; others were measured before the sizes changed."""
    return {name: row for name, row in results.items() if "run" not in row or _is_of(row["run"], scale)}


def _is_of(run: Mapping[str, Any], scale: Scale) -> bool:
    lengths = {"choice": (scale.choice_images, 1), "rivals": (scale.images, scale.epochs)}
    images, epochs = lengths.get(run["purpose"], (None, run["epochs"]))
    sizes = {name: getattr(scale, name) for name in SIZES}
    return {**sizes, "images": images, "epochs": epochs}.items() <= run.items()


def scores(results: Results, scale: Scale, problem: str, way: Way, blocks: int) -> list[float]:
    """Top-1 in percent of each seed that is measured; one branch is the serial network of one block."""
    return [100 * row["top1"] for row in trainings(results, scale, problem, way, blocks)]


def trainings(results: Results, scale: Scale, problem: str, way: Way, blocks: int) -> list[Any]:
    """The rows of all seeds that are measured."""
    kind = "serial" if blocks == 1 else way
    names = [f"{problem}/{kind}/{blocks}/{seed}" for seed in scale.seeds]
    return [results[name] for name in names if name in results]


def prefixes(results: Results, scale: Scale, problem: str, way: Way) -> list[list[float]]:
    """For each prefix, top-1 in percent of each seed."""
    rows = trainings(results, scale, problem, way, scale.blocks)
    return [[100 * share for share in shares] for shares in zip(*(row["prefixes"] for row in rows), strict=True)]


def differences(results: Results, scale: Scale, problem: str, way: Way) -> list[float]:
    """Points of a way above the serial twin, seed by seed."""
    found = []
    for seed in scale.seeds:
        names = [f"{problem}/{each}/{scale.blocks}/{seed}" for each in (way, "serial")]
        if all(name in results for name in names):
            ours, twin = (results[name]["top1"] for name in names)
            found.append(100 * (ours - twin))
    return found


def spread(values: Sequence[float]) -> float:
    """Standard deviation of the seeds; zero for one."""
    return stdev(values) if len(values) > 1 else 0.0


def told(values: Sequence[float], *, signed: bool = False) -> str:
    """Mean and spread, such as 84.31 ± 0.20."""
    if not values:
        return "not measured"
    middle = f"{mean(values):+.2f}" if signed else f"{mean(values):.2f}"
    return f"{middle} ± {spread(values):.2f}" if len(values) > 1 else f"{middle} (one seed)"


def on_h200() -> dict[str, dict[int, float]]:
    """Microseconds of the networks of the latency study by branches or blocks, width 192, 196 tokens, one image."""
    rows = json.loads(_H200.read_text())["rows"]
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        family, _, count = row["family"].partition(", ")
        if family == "Para-Former" and row["runtime"] == "torch":
            found.setdefault(row["network"], {})[int(count.split()[0])] = row["median_us"]
    return found
