"""A **task**: a captured pretrained model, data that it has not seen, and what counts as good.

The data is kept in the cache as calibration.npz and test.npz, which commands read as `--inputs` and `--test-inputs`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.tasks.prepared import prepared
from parallelize.data import Array, Samples, load_samples
from parallelize.models.program import Program

CALIBRATION, TEST, LABELS = "calibration.npz", "test.npz", "labels"


@dataclass(frozen=True, eq=False)
class Task:
    """What a benchmark runs on.

    Attributes:
        name: what `TASKS` calls it.
        program: the serial model, float32, not cleaned; its batch is free, the length of its rows is fixed.
        calibration: unlabelled samples in random order, so that the first n are a fair draw of them.
        test: samples that share nothing with the calibration, labelled where the metric reads labels.
        metric: name of a metric, or of a function as package.module:function.
    """

    name: str
    program: Program
    calibration: Samples
    test: Samples
    metric: str


class Data(NamedTuple):
    """Arrays by the names of the model's inputs, first axis samples; `labels` are labels."""

    calibration: Mapping[str, Array]
    test: Mapping[str, Array]


def make_task(name: str, program: Program, sources: Sequence[str], make: Callable[[], Data], metric: str) -> Task:
    """A task whose data is made of some sources, when it is asked for the first time.

    Raises:
        EnvironmentLackError: a source was not fetched.
    """
    code = sorted(Path(__file__).parent.glob("*.py"))
    data = prepared(name, sources, code, lambda folder: _write(make(), folder))
    labels = LABELS if metric == "top1-drop" else None
    calibration = load_samples(data / CALIBRATION, program.inputs)
    return Task(name, program, calibration, load_samples(data / TEST, program.inputs, labels), metric)


def _write(data: Data, folder: Path) -> None:
    for file, arrays in ((CALIBRATION, data.calibration), (TEST, data.test)):
        np.savez_compressed(folder / file, allow_pickle=False, **arrays)


def padded(rows: Sequence[Sequence[int]], length: int, filler: int = 0) -> dict[str, Array]:
    """Rows of token numbers as `input_ids` (rows, length) and `attention_mask`, which is 0 at padding.

    A longer row must be cut by the caller, who knows which tokens have to stay.
    """
    ids = np.full((len(rows), length), filler, dtype=np.int64)
    mask = np.zeros((len(rows), length), dtype=np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}
