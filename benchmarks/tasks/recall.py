"""Recall at 1: how often the nearest long text is the one that belongs to the short text.

score_i = 1  if  argmax_j <short_i, long_j> = i,  else 0
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from passes.errors import ParallelizeError


def recall_at_1(outputs: Sequence[Tensor], teacher_outputs: Sequence[Tensor], batch: Mapping[str, Tensor]) -> Tensor:
    """One score for each pair, 1 where the short text finds its long one.

    Args:
        outputs: one tensor (2 n, width) of embeddings of length 1: those of n short texts, then of their long ones.
        teacher_outputs: not read; a pair is right or wrong by itself.
        batch: not read.

    Returns:
        (n,) float32.

    Raises:
        ParallelizeError: the embeddings are no pairs.
    """
    del teacher_outputs, batch
    if len(outputs) != 1 or outputs[0].ndim != 2 or len(outputs[0]) % 2:
        raise ParallelizeError(
            f"Recall at 1 got outputs of the shapes {[tuple(output.shape) for output in outputs]}.",
            "Give one tensor of embeddings: of all short texts, then of all long ones.",
        )
    short, long = outputs[0].chunk(2)
    return ((short @ long.T).argmax(1) == torch.arange(len(short), device=short.device)).float()
