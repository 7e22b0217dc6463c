"""Losses, gradients and errors of a student, of which each process makes those of its share of the samples.

    alone            batches of a step add up, each by its share of the samples
    free batches     numerators are those of a share, denominators those of all: the loss is that of the step at once
    fixed batches    shares are whole batches, which add up as they do alone

Gradients are averaged behind the last batch, not while it is differentiated, because the processes may need different
numbers of batches: for what the program is fixed to, or what memory holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from paraformer.training.shares import Shares
from parallelize.data import Samples
from parallelize.healing.loss import Quotient
from parallelize.healing.options import HealOptions
from parallelize.healing.pair import Pair

T = TypeVar("T")
Taught = tuple[Tensor, ...]


class Gradients:
    """Fills in the gradients of some leaves."""

    def __init__(self, both: Pair, leaves: Sequence[nn.Parameter], options: HealOptions, shares: Shares) -> None:
        self.pair, self.leaves, self.options, self.shares = both, leaves, options, shares

    def fill(self, samples: Samples) -> float:
        """Differentiate the loss of the samples of a step; returns it.

        Where the program takes, or memory holds, fewer samples at a time than a step has, their gradients add up.
        """
        own = self._own(samples)
        over, taught = self._over(samples, own)
        even = len(samples) / self.shares.data_ranks
        total = self._fitting(own, lambda: self._differentiate(own, even, over, taught))
        self.shares.average(self.leaves)
        return self.shares.mean(total)

    @torch.no_grad()
    def error(self, samples: Samples) -> float:
        """The error of the outputs."""
        own = self._own(samples)
        found = self._fitting(own, lambda: self._compared(own))
        parts = [0.0, 0.0] if found is None else [float(found.numerator), float(found.denominator)]
        both = self.shares.total(torch.tensor(parts, dtype=torch.float64))
        error = self.pair.distance.error(Quotient(both[0], both[1]))
        return error if math.isfinite(error) else math.inf

    def _own(self, samples: Samples) -> Samples:
        """The share of this process, in whole batches where the program is fixed to a size."""
        if self.shares.data_ranks == 1:
            return samples
        unit = samples.fixed or 1
        part = self.shares.part(-(-len(samples) // unit))
        return samples.take(range(part.start * unit, min(part.stop * unit, len(samples))))

    def _fitting(self, samples: Samples, run: Callable[[], T]) -> T:
        """In smaller batches where memory ran out, but for ranks that share branches: those go in step."""
        return run() if self.shares.branch_ranks > 1 else samples.room.fitting(run)

    def _over(self, samples: Samples, own: Samples) -> tuple[list[Tensor] | None, Taught | None]:
        """What the loss of a share is divided by, and the teacher's values where one batch is all of it."""
        if self.shares.data_ranks == 1 or samples.fixed is not None:
            return None, None
        sums, taught = self._fitting(own, lambda: self._denominators(own))
        return list(self.shares.total(sums).to(self.pair.device) / self.shares.data_ranks), taught

    @torch.no_grad()
    def _denominators(self, own: Samples) -> tuple[Tensor, Taught | None]:
        weight, values = self.options.hidden_weight, None
        sums = torch.zeros(self.pair.distance.parts_of(weight), dtype=torch.float64)
        batches = 0
        for inputs, _ in self._batches(own):
            batches += 1
            values = self.pair.taught(inputs)
            parts = self.pair.distance.parts(inputs, values, values, weight)
            sums += torch.stack([part.denominator for part in parts]).double().cpu()
        return sums, values if batches == 1 else None

    def _differentiate(self, own: Samples, even: float, over: Sequence[Tensor] | None, taught: Taught | None) -> float:
        for leaf in self.leaves:
            leaf.grad = None
        total = 0.0
        for inputs, count in self._batches(own):
            values = self.pair.taught(inputs) if taught is None else taught
            loss = self.pair.distance.loss(inputs, self.pair.answered(inputs), values, self.options.hidden_weight, over)
            share = loss if over is not None or count == even else loss * (count / even)
            share.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
            total += share.item()
        return total

    def _compared(self, own: Samples) -> Quotient | None:
        total: Quotient | None = None
        for inputs, count in self._batches(own):
            values = (self.pair.answered(inputs), self.pair.taught(inputs), inputs)
            ours, theirs, read = ([own.cut(v, count) for v in each] for each in values)
            part = self.pair.distance.output_error(read, ours, theirs)
            total = part if total is None else total + part
        return total

    def _batches(self, samples: Samples) -> Iterator[tuple[tuple[Tensor, ...], int]]:
        """Batches as the program takes them, on the device, each with how many of its samples count."""
        if len(samples):
            size = self.options.batch_size
            yield from zip(samples.batches(size), samples.counts(size), strict=True)
