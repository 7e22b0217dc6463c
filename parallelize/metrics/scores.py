"""What was measured of one network: a few numbers for each sample, and every metric with its interval from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from parallelize.metrics.bootstrap import interval, resampled_sums
from parallelize.metrics.catalogue import Metric, Sums, named
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
        columns: (samples,) of float64 by name, see `parallelize.metrics.columns`; own scores may be fewer. Those of
            top-1 need labels, those of KL and disagreement need logits, and those of perplexity and own scores are
            there where they were asked for.
    """

    columns: Mapping[str, Tensor]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Scores) or self.columns.keys() != other.columns.keys():
            return False
        return all(torch.equal(column, other.columns[name]) for name, column in self.columns.items())

    __hash__ = None  # type: ignore[assignment]

    @property
    def samples(self) -> int:
        """How many samples were judged."""
        return len(self.columns["samples"])

    def has(self, metric: Metric | str) -> bool:
        """Whether the metric was measured."""
        return named(metric).columns <= self.columns.keys()

    def error(self, metric: Metric | str) -> float:
        """The value that a budget limits: zero where both models agree, larger is worse.

        Raises:
            ParallelizeError: the metric does not exist for these outputs, or needs labels that are not there.
        """
        return float(self._required(metric).error(self._sums))

    def value(self, metric: Metric | str) -> float | None:
        """This network's own value; None for a metric that only compares two networks."""
        metric = self._required(metric)
        return None if metric.serial is None else float(metric.ours.of(self._sums))

    def serial(self, metric: Metric | str) -> float | None:
        """The serial network's value on the same samples."""
        metric = self._required(metric)
        return None if metric.serial is None else float(metric.serial.of(self._sums))

    def interval(self, metric: Metric | str) -> tuple[float, float]:
        """The 95 % bootstrap interval of the error; our output and the teacher's are resampled together."""
        metric = self._required(metric)
        return self._interval(metric.error, metric.columns)

    def value_interval(self, metric: Metric | str) -> tuple[float, float] | None:
        """The 95 % bootstrap interval of this network's own value."""
        metric = self._required(metric)
        return None if metric.serial is None else self._interval(metric.ours.of, metric.ours.columns)

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

    def _interval(self, quantity: Callable[[Sums], Tensor], columns: frozenset[str]) -> tuple[float, float]:
        value = quantity(self._sums)
        if not value.isfinite():
            return float(value), float(value)  # a sample that is infinite is in nearly every draw
        without = [quantity({**self._sums, **sums}) for sums in self._sums_without_one(columns)]
        return interval(value, quantity(self._resampled), value - torch.cat(without))

    def _sums_without_one(self, names: frozenset[str]) -> list[Sums]:
        """The sums of some columns with each of the samples left out."""
        read = [{name: group[name] for name in group.keys() & names} for group in self._by_count]
        return [{name: self._sums[name] - column for name, column in group.items()} for group in read if group]

    @cached_property
    def _by_count(self) -> list[dict[str, Tensor]]:
        """Columns that have equally many samples; scores of groups of samples, such as pairs, have fewer."""
        counts = {len(column) for column in self.columns.values()}
        return [{name: c for name, c in self.columns.items() if len(c) == count} for count in counts]

    @cached_property
    def _sums(self) -> Sums:
        return {name: column.sum() for name, column in self.columns.items()}

    @cached_property
    def _resampled(self) -> Sums:
        """Sums over resampled samples; columns of another number of samples are resampled by themselves."""
        found: Sums = {}
        for columns in self._by_count:
            sums = resampled_sums(torch.stack(list(columns.values()), 1))
            found = {**found, **dict(zip(columns, sums.unbind(1), strict=True))}
        return found
