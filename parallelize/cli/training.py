"""`parallelize train`: drives the trainer of the paraformer package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paraformer.data.loading import load_data
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
        data: folder or file, see paraformer.data.loading.
        sizes: fields of VisionConfig.
        schedule: fields of TrainingOptions.
        limit: use the first samples only.
        report: told epoch, loss and accuracy.

    Raises:
        ParallelizeError: sizes that do not fit each other, or too few images for one batch.
    """
    dataset = load_data(data).head(limit)
    channels, image_size, _ = dataset.sample_shape
    pixels = dataset.train.inputs[0].float()
    known = {"channels": channels, "image_size": image_size, "classes": len(dataset.classes)}
    scale = {"pixel_mean": round(float(pixels.mean()), 2), "pixel_std": round(float(pixels.std()), 2) or 1.0}
    try:
        trainer = Trainer(VisionConfig(**{**known, **scale, **sizes}), TrainingOptions(**schedule), dataset)
    except ValueError as error:
        raise ParallelizeError(f"The model cannot be trained: {error}.", "See `parallelize train --help`.") from error

    def progress(done: int, total: int, _loss: float) -> None:
        last = f", top-1 {trainer.history[-1].top1:.2%}" if trainer.history else ""
        epoch = min(len(trainer.history) + 1, trainer.options.epochs)
        report(f"epoch {epoch} of {trainer.options.epochs}{last}", done / total)

    trainer.run(output, progress)
    return trainer.history[-1].top1
