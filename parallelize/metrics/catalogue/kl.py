"""KL(teacher || ours) in nats, averaged over samples, or over tokens.

Classes that the teacher forbids add nothing, not 0 times infinity; one that only ours forbids is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from parallelize.metrics.metric import LOGITS, Column, Default, Metric

if TYPE_CHECKING:
    from torch import Tensor

    from parallelize.metrics.batch import Batch
    from parallelize.metrics.metric import Measured


def divergence(batch: Batch) -> Measured | None:
    """The sum over positions, and their number."""
    pair = batch.logits
    if pair is None:
        return None
    ours, teacher = pair.logits
    log_q, log_p = ours.log_softmax(-1), teacher.log_softmax(-1)
    p = log_p.exp()
    found = (p * (log_p - log_q)).where(p > 0, 0.0).sum(-1)
    found = found.masked_fill(pair.lost | found.isnan(), math.inf)
    return pair.over_positions(found), pair.over_positions(pair.positions)


def _not_negative(ratio: Tensor) -> Tensor:
    """A divergence is none of rounding."""
    return ratio.clamp_min(0)


def _is_of_classes(outputs: Sequence[Tensor]) -> bool:
    """Hidden states (samples, tokens, features) have the shape of a language model's logits, and are none."""
    from parallelize.metrics.batch import logit_axes

    return logit_axes(outputs) == 2


METRIC = Metric(
    "kl",
    "mean Kullback-Leibler divergence of the teacher's distribution from the rewritten model's, in nats",
    divergence,
    Column("KL\nnats"),
    place=10,
    reads="logits",
    g=_not_negative,
    percent_of=None,
    needs=LOGITS,
    default=Default("for logits", _is_of_classes),
)
