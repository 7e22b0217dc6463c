"""The share of samples, or of tokens, whose largest logit is another one than the teacher's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parallelize.metrics.metric import LOGITS, Column, Metric

if TYPE_CHECKING:
    from parallelize.metrics.batch import Batch
    from parallelize.metrics.metric import Measured


def moved(batch: Batch) -> Measured | None:
    """Positions whose largest logit moved, and the number of positions."""
    pair = batch.logits
    if pair is None:
        return None
    ours, teacher = pair.logits
    found = ((ours.argmax(-1) != teacher.argmax(-1)) | pair.lost).double()
    return pair.over_positions(found), pair.over_positions(pair.positions)


METRIC = Metric(
    "disagreement",
    "share of samples, or of tokens, whose largest logit moved",
    moved,
    Column("moved", ".2%", ".1%"),
    place=40,
    reads="logits",
    needs=LOGITS,
    beside=Column("agree", ".1%", None),
)
