"""`parallelize train`: drives the trainer of the paraformer package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paraformer.data.labelled import Dataset
from paraformer.data.loading import load_data
from paraformer.model import ParaFormerConfig, TokenConfig, VisionConfig
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
        sizes: fields of VisionConfig, of TokenConfig where the data is texts; None is what the data or the config says.
        schedule: fields of TrainingOptions.
        limit: use the first samples only.
        report: told epoch, loss and accuracy.

    Raises:
        ParallelizeError: sizes that do not fit each other, or too few images for one batch.
    """
    dataset = load_data(data).head(limit)
    chosen = {name: value for name, value in sizes.items() if value is not None}
    if dataset.is_text and "patch_size" in chosen:
        raise ParallelizeError(f"{data} holds texts, which have no patches.", "Leave --patch-size out.")
    try:
        trainer = Trainer(_config(dataset, chosen), TrainingOptions(**schedule), dataset)
    except ValueError as error:
        raise ParallelizeError(f"The model cannot be trained: {error}.", "See `parallelize train --help`.") from error

    def progress(done: int, total: int, _loss: float) -> None:
        last = f", top-1 {trainer.history[-1].top1:.2%}" if trainer.history else ""
        epoch = min(len(trainer.history) + 1, trainer.options.epochs)
        report(f"epoch {epoch} of {trainer.options.epochs}{last}", done / total)

    trainer.run(output, progress)
    return trainer.history[-1].top1


def _config(data: Dataset, sizes: Mapping[str, Any]) -> ParaFormerConfig:
    """The sizes that are chosen, and those that the data tells."""
    if data.is_text:
        (length,) = data.sample_shape
        return TokenConfig(**{"vocabulary": len(data.words), "length": length, "classes": len(data.classes), **sizes})
    channels, image_size, _ = data.sample_shape
    pixels = data.train.inputs[0].float()
    known = {"channels": channels, "image_size": image_size, "classes": len(data.classes)}
    scale = {"pixel_mean": round(float(pixels.mean()), 2), "pixel_std": round(float(pixels.std()), 2) or 1.0}
    return VisionConfig(**{**known, **scale, **sizes})


def blocks_in_all(depth: int | None, branches: int, branch_depth: int | None) -> int:
    """Blocks of a model, of which all or those of a branch are given.

    Raises:
        ParallelizeError: both are given, and differ.
    """
    if branch_depth is None:
        return 12 if depth is None else depth
    if depth not in (None, branches * branch_depth):
        raise ParallelizeError(
            f"{branches} branches of {branch_depth} blocks are {branches * branch_depth} blocks, not {depth}.",
            "Give --depth or --branch-depth, not both.",
        )
    return branches * branch_depth
