"""The share of integers and bools, such as classes and ranks, that are not the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from parallelize.metrics.metric import Column, Default, Metric

if TYPE_CHECKING:
    from torch import Tensor

    from parallelize.metrics.batch import Batch
    from parallelize.metrics.metric import Measured


def differing(batch: Batch) -> Measured | None:
    """Those that differ, and their number."""
    return batch.codes


def _are_codes(outputs: Sequence[Tensor]) -> bool:
    from passes.graph.agreement import is_code

    return all(is_code(output) for output in outputs)


METRIC = Metric(
    "differing",
    "share of class numbers, ranks or other integers and bools that are not the teacher's",
    differing,
    Column("codes\nmoved", ".2%", ".1%"),
    place=50,
    reads="codes",
    needs=("an output of integers or bools", "Use --metric relative-l2."),
    default=Default("for integers", _are_codes),
)
