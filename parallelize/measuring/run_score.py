"""A network's own score on samples: accuracy where there are labels, perplexity, or a function of the user's.

Metrics that say how far one network is from another need two; `compare` and `convert` have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parallelize.measuring.run_options import RunFileOptions
from passes.errors import ParallelizeError

if TYPE_CHECKING:
    from parallelize.data import Samples
    from parallelize.metrics.metric import Metric
    from parallelize.metrics.outputs import Outputs
    from parallelize.metrics.scores import Scores

_ACCURACY = "top1-drop"
_AT_ONCE = 256  # samples


@dataclass(frozen=True)
class Score:
    """What the outputs are worth.

    Attributes:
        metric: its column's heading.
        value: of the network.
        interval: 95 % bootstrap interval of it.
        shown: how a value is printed.
    """

    metric: str
    value: float
    interval: tuple[float, float]
    shown: str = ".4f"

    def __str__(self) -> str:
        low, high = (format(bound, self.shown) for bound in self.interval)
        return f"{self.metric} {format(self.value, self.shown)} (95 % interval {low} to {high})"


def require_scorable(options: RunFileOptions, samples: Samples) -> None:
    """Refuse a metric that these samples or a single network cannot have.

    Raises:
        ParallelizeError: it is one.
    """
    metric = _metric(options)
    if metric is None:
        return
    if metric.function is None and metric.better is None:
        raise ParallelizeError(
            f"The metric {metric.name} says how far a network is from another one, and there is only one here.",
            "Use top1-drop, perplexity or a function of your own; `parallelize compare` has two networks.",
        )
    if metric.name == _ACCURACY and samples.labels is None:
        raise ParallelizeError("Accuracy needs labels.", "Name their array in the .npz with --labels.")


def scored(options: RunFileOptions, outputs: Sequence[Outputs | None], samples: Samples) -> Score | None:
    """The score that was asked for.

    Raises:
        ParallelizeError: the metric cannot be measured for these outputs.
    """
    from parallelize.metrics.batch import logit_axes
    from parallelize.metrics.columns import Reference, joined
    from parallelize.metrics.next_tokens import next_tokens
    from parallelize.metrics.own import own_columns, own_scores
    from parallelize.metrics.scores import Scores

    metric = _metric(options)
    if metric is None:
        return None
    found = [output for output in outputs if output is not None]
    if metric.function is not None:
        whole = [output[:] for output in found]
        own = own_scores(metric, whole, whole, samples)
        return _score(metric, Scores({metric.name: own_columns(own, own)}))
    tokens = None
    if metric.reads == "next tokens" and logit_axes(found) == 3:
        tokens = next_tokens(samples, found[0].shape[2])
    reference = Reference(found, [None] * len(found), samples.labels, tokens)
    starts = range(0, len(samples), _AT_ONCE)
    columns = joined(reference.compare([o[start : start + _AT_ONCE] for o in found], start) for start in starts)
    return _score(metric, Scores(columns))


def _score(metric: Metric, scores: Scores) -> Score:
    value, interval = scores.value(metric), scores.value_interval(metric)
    assert value is not None
    assert interval is not None
    return Score(metric.column.heading.replace("\n", " "), value, interval, metric.column.number)


def _metric(options: RunFileOptions) -> Metric | None:
    from parallelize.metrics.own import find_metric

    wanted = options.metric if options.metric is not None else (None if options.labels is None else _ACCURACY)
    return None if wanted is None else find_metric(wanted)
