"""Top-1 accuracy: the share of samples whose largest logit is the label."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parallelize.metrics.metric import Column, Metric

if TYPE_CHECKING:
    from parallelize.metrics.batch import Batch
    from parallelize.metrics.metric import Measured


def right(batch: Batch) -> Measured | None:
    """1 where the largest logit is the label, and 1."""
    if batch.classes is None or batch.labels is None:
        return None
    logits = batch.classes.ours
    found = ((logits.argmax(1) == batch.labels) & ~logits.isnan().any(1)).double()
    return found, found.new_ones(len(found))


METRIC = Metric(
    "top1-drop",
    "top-1 accuracy of the teacher minus that of the rewritten model; needs labels",
    right,
    Column("top-1", ".2%", ".1%"),
    place=60,
    reads="classes",
    better="higher",
    percent_of="serial",
    needs=(
        "labels, and one output of logits (samples, classes)",
        "Name their array in the .npz with --labels; without logits use --metric relative-l2.",
    ),
    leads=True,
)
