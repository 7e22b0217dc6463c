"""How far a rewritten model's outputs are from the teacher's, and from the labels where there are any.

Every metric but top-1 compares two models on the same unlabelled inputs and is zero where they agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx

from parallelize.inputs import Samples
from passes.errors import ParallelizeError
from passes.infra import flat_outputs

Metric = Literal["kl", "relative-l2", "disagreement", "top1-drop"]
METRICS: dict[Metric, str] = {
    "kl": "mean Kullback-Leibler divergence of the teacher's distribution from the rewritten model's, in nats",
    "relative-l2": "|y - teacher| / |teacher| over all samples",
    "disagreement": "share of samples whose largest logit moved",
    "top1-drop": "top-1 accuracy of the teacher minus that of the rewritten model; needs labels",
}


@dataclass(frozen=True)
class Scores:
    """Measured on `samples` samples; `top1` needs labels, `kl` and `agreement` need logits, else they are None."""

    samples: int
    relative_l2: float
    kl: float | None = None
    agreement: float | None = None
    top1: float | None = None
    top1_teacher: float | None = None

    def error(self, metric: Metric) -> float:
        """The value that a budget limits: zero where both models agree, larger is worse.

        Raises:
            ParallelizeError: the metric does not exist for these outputs, or needs labels that are not there.
        """
        values: dict[Metric, float | None] = {
            "kl": self.kl,
            "relative-l2": self.relative_l2,
            "disagreement": None if self.agreement is None else 1 - self.agreement,
            "top1-drop": None if self.top1 is None or self.top1_teacher is None else self.top1_teacher - self.top1,
        }
        value = values[metric]
        if value is None and metric == "top1-drop":
            raise ParallelizeError("The metric top1-drop needs labels.", "Name their array in the .npz with --labels.")
        if value is None:
            raise ParallelizeError(
                f"The metric {metric} needs one output of logits (samples, classes).", "Use --metric relative-l2."
            )
        return value


def predict(module: fx.GraphModule, samples: Samples, batch_size: int = 250) -> list[Tensor]:
    """The model's output tensors over all samples, batch by batch, concatenated on the first axis."""
    batches = [flat_outputs(module, inputs) for inputs in samples.batches(batch_size)]
    return [torch.cat(parts) for parts in zip(*batches, strict=True)]


def score(outputs: list[Tensor], teacher: list[Tensor], labels: Tensor | None = None) -> Scores:
    """Compare outputs with the teacher's; (samples, classes) outputs of one tensor count as logits."""
    error = sum(float((a.double() - b.double()).square().sum()) for a, b in zip(outputs, teacher, strict=True))
    size = sum(float(b.double().square().sum()) for b in teacher)
    relative = (error / max(size, 1e-300)) ** 0.5
    count = len(teacher[0])
    if len(teacher) != 1 or teacher[0].ndim != 2 or teacher[0].shape[1] < 2 or not teacher[0].is_floating_point():
        return Scores(count, relative)
    ours, theirs = outputs[0].double(), teacher[0].double()
    log_p, log_q = theirs.log_softmax(1), ours.log_softmax(1)
    kl = float((log_p.exp() * (log_p - log_q)).sum(1).mean().clamp_min(0))
    top, top_teacher = ours.argmax(1), theirs.argmax(1)
    agreement = float((top == top_teacher).double().mean())
    if labels is None:
        return Scores(count, relative, kl, agreement)
    right = [float((guess == labels).double().mean()) for guess in (top, top_teacher)]
    return Scores(count, relative, kl, agreement, *right)
