"""How far a rewritten model is from the teacher, and from labels or tokens where there are any.

catalogue     the metrics, as functions of sums over samples
columns       what each sample adds to the sums
scores        every metric of one network, with its interval
bootstrap     the intervals
next_tokens   what a language model should have predicted
own           metrics of the user's own
judge         scores networks batch by batch
budget        how large an error may be
"""

from __future__ import annotations

from parallelize.metrics.budget import Budget
from parallelize.metrics.catalogue import METRICS, Metric
from parallelize.metrics.judge import Judge, predict, score
from parallelize.metrics.own import find_metric
from parallelize.metrics.scores import Scores

__all__ = ["METRICS", "Budget", "Judge", "Metric", "Scores", "find_metric", "predict", "score"]
