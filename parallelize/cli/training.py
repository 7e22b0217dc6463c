"""`parallelize train`: drives the trainer of the paraformer package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paraformer import fashion_mnist
from paraformer.fashion_mnist import LabelledImages
from paraformer.model import VisionConfig
from paraformer.training import Trainer, TrainingOptions
from parallelize.terminal.progress import Report
from passes.errors import ParallelizeError


def train_model(
    output: Path, data: Path, sizes: Mapping[str, Any], schedule: Mapping[str, Any], limit: int | None, report: Report
) -> float:
    """Train to the end or from where a stopped run was; returns top-1 on the test images.

    Args:
        output: checkpoint to write.
        data: folder of the IDX files.
        sizes: fields of VisionConfig.
        schedule: fields of TrainingOptions.
        limit: use the first images only.
        report: told epoch, loss and accuracy.

    Raises:
        ParallelizeError: sizes that do not fit each other, or too few images for one batch.
    """
    train, test = (_first(fashion_mnist.load(split, data), limit) for split in ("train", "test"))
    try:
        trainer = Trainer(VisionConfig(**sizes), TrainingOptions(**schedule), train, test)
    except ValueError as error:
        raise ParallelizeError(f"The model cannot be trained: {error}.", "See `parallelize train --help`.") from error

    def progress(done: int, total: int, _loss: float) -> None:
        last = f", top-1 {trainer.history[-1].top1:.2%}" if trainer.history else ""
        epoch = min(len(trainer.history) + 1, trainer.options.epochs)
        report(f"epoch {epoch} of {trainer.options.epochs}{last}", done / total)

    trainer.run(output, progress)
    return trainer.history[-1].top1


def _first(data: LabelledImages, limit: int | None) -> LabelledImages:
    return data if limit is None else LabelledImages(data.images[:limit], data.labels[:limit])
