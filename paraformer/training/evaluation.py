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
from paraformer.training.shares import ALONE, Shares

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


def read(value: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """What a model reads of stored inputs: pixels are stored as bytes."""
    return value.to(dtype) if value.dtype == torch.uint8 else value


@torch.inference_mode()
def predict(model: nn.Module, data: Labelled, batch_size: int = _BATCH) -> Tensor:
    """Logits (n, classes), in batches, on the CPU."""
    model.eval()
    return torch.cat([model(*inputs).cpu() for inputs, _ in _batches(model, data, batch_size)])


def top1(model: nn.Module, data: Labelled) -> float:
    """Share of samples whose largest logit is at the label."""
    return int((predict(model, data).argmax(1) == data.labels).sum()) / len(data)


@torch.no_grad()
def evaluate(model: ParaFormer, data: Labelled, *, with_prefixes: bool = False, shares: Shares = ALONE) -> Scores:
    """Scores in evaluation mode and in the precision of the weights; several processes share the samples."""
    model.eval()
    branches = model.config.branch_count if with_prefixes else 1
    right, sums = torch.zeros(branches, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    own = data[torch.arange(len(data))[shares.part(len(data))]] if shares.data_ranks > 1 else data
    for inputs, labels in _batches(model, own, max(1, _BATCH // branches)):
        targets = targets_of(model.config, inputs, labels)
        logits = model.prefix_logits(*inputs) if with_prefixes else model(*inputs)[None]
        last = logits[-1].flatten(0, -2)
        loss = F.cross_entropy(last, targets.flatten(), ignore_index=UNSAID, reduction="sum").item()
        right += (logits.argmax(-1) == targets).flatten(1).sum(1).cpu()
        sums += torch.tensor([loss, (targets != UNSAID).sum().item()], dtype=torch.float64)
    loss, said, *counts = shares.total(torch.cat([sums, right])).tolist()
    scores = tuple(count / max(said, 1) for count in counts)
    return Scores(loss / max(said, 1), scores[-1], scores if with_prefixes else ())


def _batches(model: nn.Module, data: Labelled, size: int) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
    """What the model reads, and labels, where its weights are."""
    weight = next(model.parameters(), None)
    device = torch.device("cpu") if weight is None else weight.device
    dtype = torch.float64 if weight is not None and weight.dtype == torch.float64 else torch.float32
    for chosen in torch.split(torch.arange(len(data)), size) if len(data) else ():
        part = data[chosen]
        yield tuple(read(value.to(device), dtype) for value in part.inputs), part.labels.to(device)
