"""Metrics of the user's own: `package.module:function` or `file.py:function`.

    function(outputs, teacher_outputs, batch) -> one score for each sample, larger is better

It is called once with the whole set: lists of output tensors, first axis samples, and a dict of the inputs by name,
with the class labels as "labels" where there are any. The result has the shape (samples,). Scores may depend on the
other samples, as ranks in a retrieval do. The error is the mean of function(teacher_outputs, teacher_outputs, batch)
minus the mean of ours. The tensors are on the CPU and not copied: the function must not write
into them.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from parallelize.data import Samples
from parallelize.metrics.catalogue import known_metrics, named
from parallelize.metrics.metric import Added, Column, Metric
from parallelize.models.sources.user_code import at_home, described, imported, names_code
from passes.errors import ParallelizeError

if TYPE_CHECKING:
    from parallelize.metrics.metric import OwnScore

OWN_COLUMN = Column("own\nscore", ".4g", ".4g")
_HINT = "Return one score for each sample, a tensor (samples,), larger is better."


@dataclass(frozen=True)
class _Loaded:
    """A function as the user named it; it runs where its file lies."""

    reference: str
    function: Any

    def __call__(self, outputs: list[Tensor], teacher: list[Tensor], batch: dict[str, Tensor]) -> Tensor:
        try:
            with torch.no_grad(), at_home(self.reference):
                result: Tensor = self.function(outputs, teacher, batch)
        except (Exception, SystemExit) as error:  # the user's code may raise anything
            raise ParallelizeError(
                f"The metric {self.reference} raised {described(error)}.",
                "It is called as function(outputs, teacher_outputs, batch) with lists of tensors and a dict of inputs.",
            ) from error
        return result


def find_metric(metric: Metric | str) -> Metric:
    """The metric of a name or of a function; a metric stands for itself.

    Raises:
        ParallelizeError: no metric has this name, or the function cannot be loaded.
    """
    if isinstance(metric, Metric) or metric in known_metrics() or not names_code(metric):
        return named(metric)
    _, function = imported(metric)
    if not callable(function):
        raise ParallelizeError(f"The metric {metric} is a {type(function).__name__}, not a function.", _HINT)
    return own_metric(metric, _Loaded(metric, function))


def own_metric(name: str, function: OwnScore) -> Metric:
    """A metric from a function that gives scores, one for each sample or group of samples, larger is better."""
    return Metric(
        name,
        f"mean score of the teacher by {name} minus that of the rewritten model",
        lambda _batch: None,  # of a whole set of samples
        OWN_COLUMN,
        place=1000,
        better="higher",
        percent_of="serial",
        needs=(f"the scores of {name}", "Judge with this metric."),
        function=function,
    )


def code_of(metric: Metric) -> str:
    """The text of the file in which the function of a metric stands; empty where it has none or is typed in.

    Errors that were measured by a function are of no use to what its file has become.
    """
    function = metric.function.function if isinstance(metric.function, _Loaded) else metric.function
    try:
        file = inspect.getsourcefile(inspect.unwrap(function))  # type: ignore[arg-type]  # what is none is refused
        return "" if file is None else Path(file).read_text(errors="replace")
    except (TypeError, OSError):
        return ""


def own_columns(ours: Tensor, teacher: Tensor) -> Added:
    """What scores of a set of samples add to the sums."""
    return Added(ours, torch.ones_like(ours), teacher)


def own_scores(metric: Metric, outputs: Sequence[Tensor], teacher: Sequence[Tensor], samples: Samples) -> Tensor:
    """What the user's function gives for a set of samples, one score for each, or for each group of them, in float64.

    Raises:
        ParallelizeError: the function raises, or gives another shape or NaN for outputs that are finite.
    """
    assert metric.function is not None
    labels = {} if samples.labels is None else {"labels": samples.labels}
    ours, theirs = ([output.cpu() for output in each] for each in (outputs, teacher))
    result = metric.function(ours, theirs, {**labels, **samples.arrays})
    if not isinstance(result, Tensor):
        raise ParallelizeError(f"The metric {metric} returned a {type(result).__name__}, not a tensor.", _HINT)
    if result.ndim != 1 or not 1 <= len(result) <= len(samples):
        shape = "x".join(map(str, result.shape)) or "()"
        raise ParallelizeError(
            f"The metric {metric} returned a tensor of shape {shape} for {len(samples)} samples.", _HINT
        )
    scores = result.detach().cpu().double()
    bad = ~scores.isfinite()
    if bad.any() and all(output.isfinite().all() for output in outputs):
        raise ParallelizeError(
            f"The metric {metric} returned {float(scores[bad][0])} as score {int(bad.int().argmax())}.", _HINT
        )
    return scores
