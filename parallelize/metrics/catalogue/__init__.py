"""The metrics by name: each is the `METRIC` of one file of this package, which is found by itself.

Lists, choice, judge, reports, tables and help texts go through this one list.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator

from parallelize.metrics.metric import Metric
from passes.errors import ParallelizeError


def known_metrics() -> dict[str, Metric]:
    """All of them, in the order of their places."""
    return {metric.name: metric for metric in sorted(_found(), key=lambda metric: metric.place)}


def _found() -> Iterator[Metric]:
    for info in pkgutil.iter_modules(__path__, f"{__name__}."):
        module = __import__(info.name, globals(), fromlist=["_"])  # told apart from the user's imports by its globals
        yield module.METRIC


def named(metric: Metric | str) -> Metric:
    """The metric of a name; a metric stands for itself.

    Raises:
        ParallelizeError: no metric has this name.
    """
    if isinstance(metric, Metric):
        return metric
    known = known_metrics()
    if metric not in known:
        raise ParallelizeError(
            f"There is no metric {metric!r}.",
            f"Use one of {', '.join(known)}, or a function of your own as package.module:function or file.py:function.",
        )
    return known[metric]
