"""What was measured of one network: a few numbers for each sample, and every metric with its interval from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from parallelize.metrics.bootstrap import interval, resampled_sums
from parallelize.metrics.catalogue import named
from parallelize.metrics.metric import Added, Metric
from passes.errors import ParallelizeError


@dataclass(frozen=True)
class PlainScores:
    """The numbers of one network without those of its samples; None for what was not measured.

    Attributes:
        samples: how many were judged.
        relative_l2: |y - teacher| / |teacher|.
        cosine: 1 - cosine of outputs and the teacher's.
        kl: divergence from the teacher in nats.
        agreement: share of samples whose largest logit stayed.
        top1: accuracy.
        top1_teacher: the teacher's accuracy.
        perplexity: of the network.
        perplexity_teacher: of the teacher.
    """

    samples: int
    relative_l2: float
    cosine: float | None = None
    kl: float | None = None
    agreement: float | None = None
    top1: float | None = None
    top1_teacher: float | None = None
    perplexity: float | None = None
    perplexity_teacher: float | None = None


@dataclass(frozen=True, eq=False)
class Scores:
    """Numbers for each sample of one network.

    Attributes:
        columns: by the name of each metric that was measured; own scores may be fewer than samples. Top-1 needs labels,
            KL and disagreement need logits, and perplexity and own scores are there where they were asked for.
    """

    columns: Mapping[str, Added]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Scores) or self.columns.keys() != other.columns.keys():
            return False
        return all(added.equals(other.columns[name]) for name, added in self.columns.items())

    __hash__ = None  # type: ignore[assignment]

    @property
    def samples(self) -> int:
        """How many samples were judged."""
        return max(len(added.ours) for added in self.columns.values())

    def has(self, metric: Metric | str) -> bool:
        """Whether the metric was measured."""
        return named(metric).name in self.columns

    def error(self, metric: Metric | str) -> float:
        """The value that a budget limits: zero where both models agree, larger is worse.

        Raises:
            ParallelizeError: the metric does not exist for these outputs, or needs labels that are not there.
        """
        metric = self._required(metric)
        return float(metric.error(self._sums[metric.name]))

    def value(self, metric: Metric | str) -> float | None:
        """This network's own value; None for a metric that only compares two networks."""
        metric = self._required(metric)
        return None if metric.better is None else float(metric.value(self._sums[metric.name]))

    def serial(self, metric: Metric | str) -> float | None:
        """The serial network's value on the same samples."""
        metric = self._required(metric)
        found = metric.serial(self._sums[metric.name])
        return None if found is None else float(found)

    def interval(self, metric: Metric | str) -> tuple[float, float]:
        """The 95 % bootstrap interval of the error; our output and the teacher's are resampled together."""
        metric = self._required(metric)
        return self._interval(metric.name, metric.error)

    def value_interval(self, metric: Metric | str) -> tuple[float, float] | None:
        """The 95 % bootstrap interval of this network's own value."""
        metric = self._required(metric)
        return None if metric.better is None else self._interval(metric.name, metric.value)

    def plain(self) -> PlainScores:
        """The numbers by name."""
        has_perplexity = self.has("perplexity")
        return PlainScores(
            samples=self.samples,
            relative_l2=self.relative_l2,
            cosine=self._error_or_none("cosine"),
            kl=self.kl,
            agreement=self.agreement,
            top1=self.top1,
            top1_teacher=self.top1_teacher,
            perplexity=self.value("perplexity") if has_perplexity else None,
            perplexity_teacher=self.serial("perplexity") if has_perplexity else None,
        )

    @property
    def relative_l2(self) -> float:
        """|y - teacher| / |teacher|."""
        return self.error("relative-l2")

    @property
    def kl(self) -> float | None:
        """Divergence from the teacher in nats; None where the outputs are no logits."""
        return self._error_or_none("kl")

    @property
    def agreement(self) -> float | None:
        """Share of samples whose largest logit stayed; None where the outputs are no logits."""
        moved = self._error_or_none("disagreement")
        return None if moved is None else 1 - moved

    @property
    def top1(self) -> float | None:
        """Accuracy; None without labels."""
        return self.value("top1-drop") if self.has("top1-drop") else None

    @property
    def top1_teacher(self) -> float | None:
        """The teacher's accuracy; None without labels."""
        return self.serial("top1-drop") if self.has("top1-drop") else None

    def _error_or_none(self, name: str) -> float | None:
        return self.error(name) if self.has(name) else None

    def _required(self, metric: Metric | str) -> Metric:
        metric = named(metric)
        if self.has(metric):
            return metric
        what, hint = metric.needs
        raise ParallelizeError(f"The metric {metric} needs {what}.", hint)

    def _interval(self, name: str, quantity: Callable[[Added], Tensor]) -> tuple[float, float]:
        sums, added = self._sums[name], self.columns[name]
        value = quantity(sums)
        if not value.isfinite():
            return float(value), float(value)  # a sample that is infinite is in nearly every draw
        without = quantity(_minus(sums, added))
        return interval(value, quantity(self._resampled[name]), value - without)

    @cached_property
    def _sums(self) -> dict[str, Added]:
        return {name: added.each(torch.sum) for name, added in self.columns.items()}

    @cached_property
    def _resampled(self) -> dict[str, Added]:
        """Sums over resampled samples; columns of another number of samples are resampled by themselves.

        Scores of groups of samples, such as pairs, are fewer.
        """
        found: dict[str, Added] = {}
        for count in {len(added.ours) for added in self.columns.values()}:
            group = {name: added for name, added in self.columns.items() if len(added.ours) == count}
            table = torch.stack([column for added in group.values() for column in _columns(added)], 1)
            sums = iter(resampled_sums(table).unbind(1))
            found |= {name: Added(*(next(sums) for _ in _columns(added))) for name, added in group.items()}
        return found


def _minus(sums: Added, added: Added) -> Added:
    """The sums with each of the samples left out."""
    each = [total - column for total, column in zip(_columns(sums), _columns(added), strict=True)]
    return Added(*each)


def _columns(added: Added) -> list[Tensor]:
    return [column for column in (added.ours, added.weight, added.serial) if column is not None]
