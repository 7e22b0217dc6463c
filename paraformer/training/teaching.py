"""A trained model whose answers another one learns, beside the labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paraformer.checkpoint import Checkpoint
from paraformer.config import ParaFormerConfig
from paraformer.data.labelled import Dataset
from paraformer.errors import TrainingError
from paraformer.training.fitting import check_fits
from paraformer.training.starts import fingerprint


class Teacher:
    """A model in evaluation mode that no gradient reaches, as wide operations where it has branches.

    Attributes:
        name: for people.
        fingerprint: of its weights.
    """

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        model = checkpoint.build()
        self.name, self.config = name, checkpoint.config
        self.words: tuple[str, ...] = tuple(checkpoint.training.get("words", ()))
        self.classes: tuple[str, ...] = tuple(checkpoint.training.get("classes", ()))
        self.fingerprint = fingerprint(model)
        self.model: nn.Module = (model.fuse() if model.config.branch_count > 1 else model).requires_grad_(
            requires_grad=False
        )

    def check(self, student: ParaFormerConfig, data: Dataset) -> None:
        """Refuse a student that it cannot teach, or data that it does not know.

        Raises:
            TrainingError: it answers other questions, or its classes are others.
        """
        check_fits(self.config, self.words, data, f"The teacher {self.name}")
        if _answers(self.config) != _answers(student):
            raise TrainingError(
                f"The teacher {self.name} answers {_answers(self.config)}, and the student {_answers(student)}.",
                "Name a teacher that was trained on the same data for the same task.",
            )
        if self.classes and self.classes != data.classes:
            raise TrainingError(
                f"The teacher {self.name} was trained on the classes {', '.join(self.classes)}, and {data.name} has"
                f" {', '.join(data.classes)}.",
                "Name a teacher that was trained on the same data.",
            )

    @torch.no_grad()
    def answer(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Its logits."""
        logits: Tensor = self.model(*inputs)
        return logits


def _answers(config: ParaFormerConfig) -> str:
    if getattr(config, "task", "classify") == "next-token":
        return f"which of {config.vocabulary} tokens comes next"  # type: ignore[attr-defined]
    return f"which of {config.classes} classes it is"
