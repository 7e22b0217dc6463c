"""What page and figures read out of the rows, for each length of training: scores by seed, their mean and spread."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.study.runs import PROBLEMS, SIZES, WAYS, Results, Scale, Way

_H200 = Path(__file__).resolve().parents[1] / "results" / "gpu_latency.json"


@dataclass(frozen=True)
class Length:
    """The rivals that were trained for as many epochs.

    Attributes:
        scale: sizes of the study.
        epochs: of every training.
        rows: of the whole study.
    """

    scale: Scale
    epochs: int
    rows: Results

    @property
    def steps(self) -> str:
        """Of a training, for people."""
        found = {row["steps"] for problem in PROBLEMS for way in WAYS for row in self.trainings(problem, way)}
        return f"{max(found):,}" if found else ""

    def trainings(self, problem: str, way: Way, blocks: int | None = None) -> list[Any]:
        """The rows of all seeds that are measured; one branch is the serial network of one block."""
        count = blocks or self.scale.blocks
        kind = "serial" if count == 1 else way
        names = [f"{problem}/{kind}/{count}/{seed}/{self.epochs}" for seed in self.scale.seeds]
        return [self.rows[name] for name in names if name in self.rows]

    def scores(self, problem: str, way: Way, blocks: int | None = None) -> list[float]:
        """Top-1 in percent of each seed that is measured."""
        return percents(self.trainings(problem, way, blocks))

    def prefixes(self, problem: str, way: Way) -> list[list[float]]:
        """For each prefix, top-1 in percent of each seed."""
        rows = self.trainings(problem, way)
        return [[100 * share for share in shares] for shares in zip(*(row["prefixes"] for row in rows), strict=True)]

    def differences(self, problem: str, way: Way) -> list[float]:
        """Points of a way above the serial twin, seed by seed."""
        found = []
        for seed in self.scale.seeds:
            names = [f"{problem}/{each}/{self.scale.blocks}/{seed}/{self.epochs}" for each in (way, "serial")]
            if all(name in self.rows for name in names):
                ours, twin = (self.rows[name]["top1"] for name in names)
                found.append(100 * (ours - twin))
        return found

    def roads(self) -> list[Any]:
        """The rows of both roads, of all seeds that are measured."""
        names = [f"roads/{seed}/{self.epochs}" for seed in self.scale.seeds]
        return [self.rows[name] for name in names if name in self.rows]


def lengths(results: Results, scale: Scale) -> list[Length]:
    """All of them, the longest first."""
    return [Length(scale, epochs, results) for epochs in sorted(scale.lengths, reverse=True)]


def fullest(results: Results, scale: Scale, *needed: tuple[str, Way, int]) -> Length | None:
    """The longest training of which most seeds are measured, of all problems, ways and sizes that are needed."""
    found = [(min((len(each.scores(*one)) for one in needed), default=0), each) for each in lengths(results, scale)]
    most, best = max(found, key=lambda pair: pair[0])
    return best if most else None


def current(results: Results, scale: Scale) -> dict[str, Any]:
    """The rows that are of these sizes; others were measured before the sizes changed."""
    return {name: row for name, row in results.items() if "run" not in row or _is_of(row["run"], scale)}


def _is_of(run: Mapping[str, Any], scale: Scale) -> bool:
    images = {"choice": scale.choice_images, "rivals": scale.images, "longer": None}[run["purpose"]]
    return {**{name: getattr(scale, name) for name in SIZES}, "images": images}.items() <= run.items()


def percents(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Top-1 of some rows."""
    return [100 * row["top1"] for row in rows]


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
