"""How far a rewritten model is from the teacher, and from labels or tokens where there are any.

catalogue     the metrics, one in each file
metric        what a metric is: a function of sums over samples
batch         what metrics read
columns       what each sample adds to the sums
scores        every metric of one network, with its interval
bootstrap     the intervals
next_tokens   what a language model should have predicted
own           metrics of the user's own
choice        which metric judges where none was asked for
judge         scores networks batch by batch
budget        how large an error may be

Names are loaded when they are used: the help texts name the metrics and do without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parallelize.metrics.budget import Budget
    from parallelize.metrics.catalogue import known_metrics
    from parallelize.metrics.judge import Judge, predict, score
    from parallelize.metrics.metric import Metric
    from parallelize.metrics.own import find_metric
    from parallelize.metrics.scores import Scores

__all__ = ["Budget", "Judge", "Metric", "Scores", "find_metric", "known_metrics", "predict", "score"]

_HOMES = {
    "Budget": "budget",
    "Judge": "judge",
    "Metric": "metric",
    "Scores": "scores",
    "find_metric": "own",
    "known_metrics": "catalogue",
    "predict": "judge",
    "score": "judge",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = __import__(f"{__name__}.{_HOMES[name]}", globals(), fromlist=[name])
    return getattr(home, name)
