"""How good a model is on labelled samples: cross entropy and top-1, of every prefix of its branches where asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from paraformer.data.labelled import Labelled
from paraformer.network import ParaFormer
from paraformer.training.objectives import UNSAID, targets_of

_BATCH = 500


@dataclass(frozen=True)
class Scores:
    """Of all samples, or of all tokens where each has a next one.

    Attributes:
        loss: mean cross entropy.
        top1: share whose largest logit is at the label.
        prefixes: that share of each prefix, the last of all branches; empty where not asked for.
    """

    loss: float
    top1: float
    prefixes: tuple[float, ...] = ()


def read(value: Tensor) -> Tensor:
    """What a model reads of stored inputs: pixels are stored as bytes."""
    return value.float() if value.dtype == torch.uint8 else value


@torch.inference_mode()
def predict(model: nn.Module, data: Labelled, batch_size: int = _BATCH) -> Tensor:
    """Logits (n, classes), in batches, on the CPU."""
    model.eval()
    return torch.cat([model(*inputs).cpu() for inputs, _ in _batches(model, data, batch_size)])


def top1(model: nn.Module, data: Labelled) -> float:
    """Share of samples whose largest logit is at the label."""
    return int((predict(model, data).argmax(1) == data.labels).sum()) / len(data)


@torch.inference_mode()
def evaluate(model: ParaFormer, data: Labelled, *, with_prefixes: bool = False) -> Scores:
    """Scores in evaluation mode and in the precision of the weights."""
    model.eval()
    loss, right, said = 0.0, torch.zeros(1, dtype=torch.int64), 0
    batch_size = max(1, _BATCH // (model.config.branch_count if with_prefixes else 1))
    for inputs, labels in _batches(model, data, batch_size):
        targets = targets_of(model.config, inputs, labels)
        logits = model.prefix_logits(*inputs) if with_prefixes else model(*inputs)[None]
        last = logits[-1].flatten(0, -2)
        loss += F.cross_entropy(last, targets.flatten(), ignore_index=UNSAID, reduction="sum").item()
        right = right + (logits.argmax(-1) == targets).flatten(1).sum(1).cpu()
        said += int((targets != UNSAID).sum())
    shares = tuple(int(count) / max(said, 1) for count in right)
    return Scores(loss / max(said, 1), shares[-1], shares if with_prefixes else ())


def _batches(model: nn.Module, data: Labelled, size: int) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
    """What the model reads, and labels, where its weights are."""
    weight = next(model.parameters(), None)
    device = torch.device("cpu") if weight is None else weight.device
    for chosen in torch.split(torch.arange(len(data)), size):
        part = data[chosen]
        yield tuple(read(value.to(device)) for value in part.inputs), part.labels.to(device)
