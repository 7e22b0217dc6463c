"""1 - y.t / (|y| |t|) of each sample, all numbers of its outputs as one vector; averaged over samples with a direction.

Samples of zeros in both models have none. Where only one is zero, the two are at a right angle.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from parallelize.metrics.metric import Column, Metric

if TYPE_CHECKING:
    from parallelize.metrics.batch import Batch
    from parallelize.metrics.metric import Measured


def turned(batch: Batch) -> Measured | None:
    """1 - cosine, and 1 where there is a direction; of codes alone the share that differs."""
    if batch.codes is not None and not batch.numeric:
        differing, count = batch.codes
        return differing / count.clamp_min(1), (count > 0).double()
    ours, teacher = batch.sizes
    product = batch.total((y * t).sum(1) for y, t in batch.numbers)
    somewhere = (teacher != 0) | (ours != 0)
    cosine = product / (teacher * ours).sqrt().where((teacher != 0) & (ours != 0), 1.0)
    found = (1 - cosine.clamp(-1, 1)).where(somewhere, 0.0)
    return found.masked_fill(batch.broken, math.inf), (somewhere | batch.broken).double()


METRIC = Metric(
    "cosine", "1 - mean cosine of each sample's output to the teacher's", turned, Column("1 -\ncosine"), place=30
)
