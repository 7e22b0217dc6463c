"""The two roads to a Para-Former: trained from scratch, or converted from its trained serial twin and then trained on.

    as is        the twin's blocks as branches that all read the embedding
    refitted     the same one level, outer coefficients solved for again; no labels
    healed       that, then gradient steps towards the twin's answers; no labels
    tuned        the twin's blocks as branches, trained with labels as a Para-Former is from scratch

A healing gets the CPU seconds that the training from scratch of its seed took, less those of the conversion. Tuning
makes as many steps as that training. The serial training that comes before both is counted beside them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from benchmarks.study.runs import Results, Run, Scale, run_of
from benchmarks.study.training import checkpoint, data_of, fitted, seen_by, trained
from paraformer.checkpoint import load
from paraformer.data.labelled import Dataset, Labelled
from paraformer.training.starts import continued
from paraformer.twins import from_serial
from parallelize.data import Samples
from parallelize.data.split import split
from parallelize.healing.heal import Healed, heal
from parallelize.healing.options import HealOptions
from parallelize.machine.measured_on import machine
from parallelize.models.clean import clean
from parallelize.models.program import Program
from parallelize.models.sources import LoadOptions, load_program
from parallelize.refitting.refit import refit
from passes.plan import Level, Plan, StackPlan

PROBLEM = "fashion"
_PROBED = 20  # steps, and three times as many, that tell what a step of a healing costs
_BATCH = 500


@dataclass(frozen=True)
class Road:
    """What both roads start from, for one seed.

    Attributes:
        serial: the run of the twin.
        scratch: the run of the Para-Former from scratch.
    """

    serial: Run
    scratch: Run

    @property
    def name(self) -> str:
        """Where its row is kept."""
        return f"roads/{self.serial.seed}/{self.serial.epochs}"

    def described(self, scale: Scale) -> dict[str, Any]:
        """What it is, as a row keeps it."""
        return {**self.scratch.described(scale), "refit": scale.refit, "serial_rate": self.serial.learning_rate}


def roads(results: Results, scale: Scale) -> list[Road]:
    """One for each length and seed."""
    pairs = product(scale.lengths, scale.seeds)
    return [
        Road(*(run_of(results, scale, PROBLEM, way, scale.blocks, seed, epochs) for way in ("serial", "joint")))
        for epochs, seed in pairs
    ]


def one_level(blocks: int) -> Plan:
    """All blocks of two terms side by side, each a branch."""
    chains = tuple((2 * block, 2 * block + 1) for block in range(blocks))
    return Plan((StackPlan(2 * blocks, (Level(chains),), "full"),))


def travelled(road: Road, scale: Scale, scratch: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Convert, heal and tune the twin of a seed.

    Args:
        road: what both start from.
        scale: sizes.
        scratch: the row of the training from scratch.
        folder: of the checkpoints; the twin is trained where it is not there.
    """
    path = checkpoint(road.serial, folder)
    if not path.exists():
        trained(road.serial, scale, folder)
    data = seen_by(road.scratch, data_of(PROBLEM, scale.test))
    as_is = from_serial(load(path).build(), scale.blocks)
    row: dict[str, Any] = {"run": road.described(scale), "as_is": {"top1": _right(as_is, data.test)}}
    row |= _converted(path, scale, data, float(scratch["cpu_seconds"]))
    start = continued(load(path), path.name, branches=scale.blocks)
    tuned = fitted(start, road.scratch, scale, data, folder / f"{road.name.replace('/', '-')}-tuned.pt")
    row["tuned"] = {name: tuned[name] for name in ("top1", "prefixes", "steps", "cpu_seconds")}
    return {**row, "measured_on": machine(torch.get_num_threads())}


def _converted(path: Path, scale: Scale, data: Dataset, seconds: float) -> dict[str, Any]:
    """Refit the twin on one level, then heal it until so many CPU seconds are used up."""
    begin = time.process_time()
    program = load_program(str(path), LoadOptions())
    (name,) = (spec.name for spec in program.inputs)
    images = Samples({name: data.train.inputs[0]})
    program, _ = clean(program, next(iter(images.batches(2))))
    parts = split(images, images, 0)
    plan = one_level(scale.blocks)
    few = replace(parts, fit=parts.fit.head(scale.refit))
    found = refit(program.module, plan, few.fit, few.held_out.head(scale.refit // 4))
    spent = time.process_time() - begin
    row = {"refitted": {"top1": _top1(program, found.module, data.test), "cpu_seconds": round(spent, 1)}}
    healing = partial(
        heal, found, program.module, plan, parts.fit, parts.held_out.head(512), device=torch.device("cpu")
    )
    steps = _steps_in(seconds - spent, scale, healing)
    begin = time.process_time()
    healed: Healed = healing(_options(steps, scale))
    spent += time.process_time() - begin
    scores = {"top1": _top1(program, healed.module, data.test), "cpu_seconds": round(spent, 1)}
    return {**row, "healed": {**scores, "steps": healed.steps, "best_step": healed.best_step, "ending": healed.ending}}


def _steps_in(seconds: float, scale: Scale, healing: Any) -> int:
    """How many steps of healing so many CPU seconds are, by two short ones, without what both begin and end with."""
    taken = []
    for steps in (_PROBED, 3 * _PROBED):
        begin = time.process_time()
        healing(_options(steps, scale))
        taken.append(time.process_time() - begin)
    step = max(taken[1] - taken[0], 1e-3) / (2 * _PROBED)
    return max(_PROBED, int((seconds - taken[0]) / step) + _PROBED)


def _options(steps: int, scale: Scale) -> HealOptions:
    return HealOptions(steps=steps, batch_size=scale.batch_size, evaluate_every=max(1, steps // 20), patience=steps)


def _top1(program: Program, module: fx.GraphModule, images: Labelled) -> float:
    """Share of images that a graph classifies rightly."""
    return _right(lambda pixels: program.flat_outputs(module(pixels))[0], images)


@torch.no_grad()
def _right(answer: Any, images: Labelled) -> float:
    right = 0
    for pixels, labels in zip(images.inputs[0].split(_BATCH), images.labels.split(_BATCH), strict=True):
        logits: Tensor = answer(pixels.float())
        right += int((logits.argmax(1) == labels).sum())
    return right / len(images)
