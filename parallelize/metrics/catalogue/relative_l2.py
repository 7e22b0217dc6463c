"""|y - t| / |t|, all numbers of all outputs and samples together; the root of the share that differs of codes alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from parallelize.metrics.metric import Column, Default, Metric

if TYPE_CHECKING:
    from torch import Tensor

    from parallelize.metrics.batch import Batch
    from parallelize.metrics.metric import Measured


def squared_error(batch: Batch) -> Measured | None:
    """Sums of (y - t)^2 and of t^2."""
    if batch.codes is not None and not batch.numeric:
        return batch.codes
    error = batch.total((y - t).square().sum(1) for y, t in batch.numbers)
    return error.masked_fill(batch.broken, math.inf), batch.sizes[1]


def _root(ratio: Tensor) -> Tensor:
    return ratio.sqrt()


def _has_numbers(outputs: Sequence[Tensor]) -> bool:
    from passes.graph.agreement import is_code

    return not all(is_code(output) for output in outputs)


METRIC = Metric(
    "relative-l2",
    "|y - teacher| / |teacher| over all samples",
    squared_error,
    Column("rel.\nL2"),
    place=20,
    g=_root,
    default=Default("elsewhere", _has_numbers),
)
