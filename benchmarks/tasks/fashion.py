"""fashion: the shipped vision transformer of 12 blocks on Fashion-MNIST, top-1 on all test images.

Calibration images are drawn from the training split, on which the model was trained.
"""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.tasks.task import LABELS, Data, Task, make_task
from paraformer.data.loading import load_data
from parallelize.models.sources import LoadOptions, load_program

MODEL = Path(__file__).resolve().parents[2] / "examples" / "fashion_vit" / "vit12.pt"
CALIBRATION_IMAGES = 12_000
SEED = 0


def task() -> Task:
    """The task.

    Raises:
        DatasetError: Fashion-MNIST is not installed.
    """
    program = load_program(str(MODEL), LoadOptions())
    name = program.inputs[0].name
    return make_task("fashion", program, (), lambda: _data(name), "top1-drop")


def _data(name: str) -> Data:
    data = load_data()
    (train,), (test,) = data.train.inputs, data.test.inputs
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(SEED))
    calibration = {name: train[order[:CALIBRATION_IMAGES]].numpy()}
    return Data(calibration, {name: test.numpy(), LABELS: data.test.labels.numpy()})
