"""A **budget** limits the error of a metric: an absolute value, or a percentage of what the metric is measured in.

A percentage is one of the serial network's value where the metric has one, so that 1% allows 0.9 points of a top-1
accuracy of 90%, and of 1 for errors that are shares already. A perplexity's error is relative to the serial one too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from parallelize.metrics.metric import Metric
from passes.errors import ParallelizeError

_HINT = "Give a number such as 0.02, or a percentage such as 1%."


@dataclass(frozen=True)
class Budget:
    """The largest error that is allowed.

    Attributes:
        share: the error, or where `percent` is set the share of the serial value: 1% is 0.01.
        percent: whether it was given as a percentage.
    """

    share: float
    percent: bool = False

    @staticmethod
    def parse(value: Budget | float | str) -> Budget:
        """Read 0.02, "0.02" or "1%"; a budget stands for itself.

        Raises:
            ParallelizeError: no number, a negative one, or one that is not finite.
        """
        if isinstance(value, Budget):
            return value
        text = str(value).strip()
        percent = text.endswith("%")
        try:
            number = float(text.removesuffix("%"))
        except ValueError:
            number = math.nan
        if not 0 <= number < math.inf:
            raise ParallelizeError(f"The maximal error {text!r} is not a number of zero or more.", _HINT)
        return Budget(number / 100 if percent else number, percent)

    def check(self, metric: Metric) -> None:
        """Refuse a percentage of nothing.

        Raises:
            ParallelizeError: a percentage for a metric without a scale.
        """
        if self.percent and metric.percent_of is None:
            raise ParallelizeError(
                f"The maximal error {self} has no meaning for {metric}, which has no serial value.",
                "Give an absolute value such as 0.02, or another --metric.",
            )

    def limit(self, metric: Metric, serial: float | None) -> float:
        """The largest error in the metric's own unit.

        Args:
            metric: what the budget limits.
            serial: the serial network's value, None where the metric has none.
        """
        self.check(metric)
        if not self.percent or metric.percent_of != "serial":
            return self.share
        assert serial is not None
        return self.share * abs(serial)

    def __str__(self) -> str:
        return f"{100 * self.share:g}%" if self.percent else f"{self.share:g}"
