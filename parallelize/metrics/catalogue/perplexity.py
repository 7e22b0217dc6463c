"""exp( mean of -log p(next token) ): how many tokens a model of language is torn between.

The logits at position i predict the token at position i + 1. Only real tokens that follow a real one count.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from parallelize.metrics.metric import Column, Metric

if TYPE_CHECKING:
    from torch import Tensor

    from parallelize.metrics.batch import Batch
    from parallelize.metrics.metric import Measured


def surprise(batch: Batch) -> Measured | None:
    """The sum of -log p over the tokens that count, and their number."""
    pair, tokens = batch.predictions, batch.tokens
    if pair is None or tokens is None:
        return None
    log_p, following = pair.ours[:, :-1].double().log_softmax(-1), tokens[:, 1:].long()
    found = -log_p.gather(2, following[..., None]).squeeze(2)
    found = found.masked_fill(found.isnan(), math.inf)
    if pair.real is None:
        return found.sum(1), found.new_ones(found.shape).sum(1)
    real = pair.real.flatten(1)
    counts = (real[:, :-1] & real[:, 1:]).double()
    return found.where(counts > 0, 0.0).sum(1), counts.sum(1)


def _exp(ratio: Tensor) -> Tensor:
    return ratio.exp()


METRIC = Metric(
    "perplexity",
    "perplexity of the rewritten model over the teacher's, minus 1; for models that predict the next token",
    surprise,
    Column("per-\nplexity", ".2f", ".1f"),
    place=70,
    reads="next tokens",
    g=_exp,
    better="lower",
    needs=(
        "one output of logits (samples, tokens, vocabulary) for two tokens or more",
        "Use it for models that predict the next token, and --metric relative-l2 elsewhere.",
    ),
)
