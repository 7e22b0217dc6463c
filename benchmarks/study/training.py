"""A training of the study, by the project's own trainer, and what is kept of it: scores, every prefix, CPU seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.study.runs import PROBLEMS, Run, Scale
from paraformer.checkpoint import load
from paraformer.data.labelled import Dataset, Labelled, kept_apart
from paraformer.data.loading import load_data
from paraformer.training.evaluation import evaluate
from paraformer.training.options import HELD_OUT
from paraformer.training.starts import Start, scratch
from paraformer.training.trainer import Trainer
from parallelize.machine.measured_on import machine


@lru_cache(maxsize=1)
def data_of(problem: str, test: int | None) -> Dataset:
    """The images of a problem."""
    whole = load_data(PROBLEMS[problem].folder)
    return replace(whole, test=whole.test.head(test))


def pixels_of(images: Labelled) -> dict[str, Any]:
    """Shape, mean and deviation of training images, as a config wants them."""
    values = images.inputs[0].float()
    _, channels, side, _ = values.shape
    return {
        "channels": channels,
        "image_size": side,
        "pixel_mean": round(float(values.mean()), 2),
        "pixel_std": round(float(values.std()), 2),
    }


def seen_by(run: Run, data: Dataset) -> Dataset:
    """The images that a run learns from and is judged on; the test images choose nothing."""
    if run.purpose != "choice":
        return replace(data, train=data.train.head(run.images))
    learned, kept = kept_apart(data.train, 0, HELD_OUT)
    return replace(data, train=learned.head(run.images), test=kept)


def trained(run: Run, scale: Scale, folder: Path) -> dict[str, Any]:
    """Train from new weights and return the row; the checkpoint stays in `folder`."""
    data = seen_by(run, data_of(run.problem, scale.test))
    start = scratch(run.config(scale, pixels_of(data.train)), run.seed)
    return {"run": run.described(scale), **fitted(start, run, scale, data, checkpoint(run, folder))}


def fitted(start: Start, run: Run, scale: Scale, data: Dataset, output: Path) -> dict[str, Any]:
    """Train from a start, score every prefix, and tell what it took.

    Returns:
        `top1`, `prefixes` (of each first so many branches), `parameters`, `steps`, `cpu_seconds` (of this process, with
        one scoring an epoch), `seconds`, `measured_on`.
    """
    trainer = Trainer(start, run.options(scale), data)
    begin, clock = time.process_time(), time.perf_counter()
    trainer.run(output)
    spent, passed = time.process_time() - begin, time.perf_counter() - clock
    model, last = load(output).build(), trainer.chosen
    prefixes = last.prefixes
    if not prefixes and model.config.branch_count > 1:  # joint training scores all branches alone
        prefixes = evaluate(model, data.test, with_prefixes=True).prefixes
    return {
        "top1": last.top1,
        "prefixes": list(prefixes),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": trainer.steps_per_epoch * run.epochs,
        "cpu_seconds": round(spent, 1),
        "seconds": round(passed, 1),
        "measured_on": machine(torch.get_num_threads()),
    }


def checkpoint(run: Run, folder: Path) -> Path:
    """Where the weights of a run are."""
    return folder / f"{run.name.replace('/', '-')}.pt"


def is_measured(results: Mapping[str, Mapping[str, Any]], run: Run, scale: Scale) -> bool:
    """Whether a row is of this run as it is now."""
    kept = results.get(run.name, {}).get("run")
    return kept is not None and {**kept} == _as_json(run.described(scale))


def _as_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """Tuples are lists in a file."""
    return {name: list(each) if isinstance(each, tuple) else each for name, each in value.items()}
