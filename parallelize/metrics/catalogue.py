"""The metrics: each is a function of sums over samples.

A network is compared sample by sample, and what is kept of a sample are a few numbers, the columns of
`parallelize.metrics.columns`. Every quantity is a ratio of two sums of them,

    value = g( sum over samples of a / sum over samples of b ),

so that a network is judged batch by batch, and a resampled set of samples only needs new sums. The error that a budget
limits is zero where two models agree and grows with the difference. It is the value itself, or is made of our value
and the serial one, where a value tells something of each network alone (top-1, perplexity, a score of the user's own).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from passes.errors import ParallelizeError

Sums = Mapping[str, Tensor]  # by column: one sum, or one for each of many resamples
OwnScore = Callable[[list[Tensor], list[Tensor], dict[str, Tensor]], Tensor]
_TINY = 1e-300


def _as_is(ratio: Tensor) -> Tensor:
    return ratio


def _not_negative(ratio: Tensor) -> Tensor:
    """A divergence is none of rounding."""
    return ratio.clamp_min(0)


@dataclass(frozen=True)
class Ratio:
    """g(sum of column `top` / sum of column `bottom`)."""

    top: str
    bottom: str
    g: Callable[[Tensor], Tensor] = _as_is

    @property
    def columns(self) -> frozenset[str]:
        """The columns that it is made of."""
        return frozenset((self.top, self.bottom))

    def of(self, sums: Sums) -> Tensor:
        """The quantity, one for each entry of the sums."""
        return self.g(sums[self.top] / sums[self.bottom].clamp_min(_TINY))


def _drop(ours: Tensor, serial: Tensor) -> Tensor:
    return serial - ours


def _growth(ours: Tensor, serial: Tensor) -> Tensor:
    return ours / serial - 1


@dataclass(frozen=True)
class Metric:
    """What is measured of a network.

    Attributes:
        name: as `--metric` spells it.
        meaning: the error in words.
        ours: the error, or our value where `serial` is given.
        serial: the serial network's value.
        compare: the error from our value and the serial one.
        percent_of: what a budget in percent is a share of; None where a percentage has no meaning.
        needs: what must be there for it, and how to come by it.
        function: scores of the user's own.
    """

    name: str
    meaning: str
    ours: Ratio
    serial: Ratio | None = None
    compare: Callable[[Tensor, Tensor], Tensor] = _drop
    percent_of: Literal["one", "serial"] | None = "one"
    needs: tuple[str, str] = ("", "")
    function: OwnScore | None = None

    def __str__(self) -> str:
        return self.name

    @property
    def reads_logits(self) -> bool:
        """Whether it only has a meaning for outputs that are logits."""
        return "logits" in self.needs[0]

    @property
    def columns(self) -> frozenset[str]:
        """The columns that it is made of."""
        return self.ours.columns if self.serial is None else self.ours.columns | self.serial.columns

    def error(self, sums: Sums) -> Tensor:
        """Zero where both models agree, larger is worse, infinite where it is no number."""
        ours = self.ours.of(sums)
        found = ours if self.serial is None else self.compare(ours, self.serial.of(sums))
        return torch.where(found.isnan(), torch.inf, found)


_LOGITS = ("one output of logits (samples, classes) or (samples, tokens, classes)", "Use --metric relative-l2.")
_CATALOGUE = (
    Metric(
        "kl",
        "mean Kullback-Leibler divergence of the teacher's distribution from the rewritten model's, in nats",
        Ratio("divergence", "positions", _not_negative),
        percent_of=None,
        needs=_LOGITS,
    ),
    Metric("relative-l2", "|y - teacher| / |teacher| over all samples", Ratio("error", "size", torch.sqrt)),
    Metric("cosine", "1 - mean cosine of each sample's output to the teacher's", Ratio("turned", "directions")),
    Metric(
        "disagreement",
        "share of samples, or of tokens, whose largest logit moved",
        Ratio("moved", "positions"),
        needs=_LOGITS,
    ),
    Metric(
        "differing",
        "share of class numbers, ranks or other integers and bools that are not the teacher's",
        Ratio("differing", "codes"),
        needs=("an output of integers or bools", "Use --metric relative-l2."),
    ),
    Metric(
        "top1-drop",
        "top-1 accuracy of the teacher minus that of the rewritten model; needs labels",
        Ratio("right", "samples"),
        Ratio("right_serial", "samples"),
        percent_of="serial",
        needs=(
            "labels, and one output of logits (samples, classes)",
            "Name their array in the .npz with --labels; without logits use --metric relative-l2.",
        ),
    ),
    Metric(
        "perplexity",
        "perplexity of the rewritten model over the teacher's, minus 1; for models that predict the next token",
        Ratio("surprise", "targets", torch.exp),
        Ratio("surprise_serial", "targets", torch.exp),
        compare=_growth,
        needs=(
            "one output of logits (samples, tokens, vocabulary) for two tokens or more",
            "Use it for models that predict the next token, and --metric relative-l2 elsewhere.",
        ),
    ),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _CATALOGUE}


def named(metric: Metric | str) -> Metric:
    """The metric of a name; a metric stands for itself.

    Raises:
        ParallelizeError: no metric has this name.
    """
    if isinstance(metric, Metric):
        return metric
    if metric not in METRICS:
        raise ParallelizeError(
            f"There is no metric {metric!r}.",
            f"Use one of {', '.join(METRICS)}, or a function of your own as package.module:function or"
            " file.py:function.",
        )
    return METRICS[metric]


def own_metric(name: str, function: OwnScore) -> Metric:
    """A metric from a function that gives scores, one for each sample or group of samples, larger is better."""
    return Metric(
        name,
        f"mean score of the teacher by {name} minus that of the rewritten model",
        Ratio("score", "scores"),
        Ratio("score_serial", "scores"),
        percent_of="serial",
        needs=(f"the scores of {name}", "Judge with this metric."),
        function=function,
    )
