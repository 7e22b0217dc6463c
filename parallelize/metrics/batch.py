"""A batch of a network's outputs beside the teacher's, and what else metrics read of it.

Positions are one for logits (samples, classes) and the tokens for logits (samples, tokens, classes). What counts as a
number is told by `passes.graph.agreement`: neither padding nor forbidden logits do, whatever stands there. Where the
teacher has no number and ours another pattern, and where ours is no number, an error is infinite. A position without a
single logit that is a number counts nowhere. Everything is compared in float64, and computed where a metric reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from passes.graph.agreement import Entries, Scale, Values, entries, is_code


@dataclass(frozen=True, eq=False)
class Pair:
    """One output of ours and the teacher's.

    Attributes:
        ours: samples first.
        teacher: of the same shape.
        real: bool that spreads over both, false at padding; None where all of it counts.
        scale: of the teacher's output on all samples.
    """

    ours: Tensor
    teacher: Tensor
    real: Tensor | None
    scale: Scale

    @cached_property
    def counted(self) -> Entries:
        """What of it counts, and as what."""
        return entries(self.teacher, self.ours, self.real, self.scale)

    @property
    def is_code(self) -> bool:
        """Whether it holds integers or bools."""
        return is_code(self.teacher)

    @property
    def is_broken(self) -> Tensor:
        """(samples,): where a pattern is another one, or ours is NaN where it should be a number."""
        lost = self.counted.numbers & self.ours.isnan()
        return _by_sample(self.counted.differ | lost).any(1)

    @property
    def numbers(self) -> tuple[Tensor, Tensor]:
        """Both as (samples, elements), zero where no numbers are compared."""
        y, t = (torch.where(self.counted.numbers, value, 0).double() for value in (self.ours, self.teacher))
        return _by_sample(y), _by_sample(t)

    @cached_property
    def logits(self) -> tuple[Tensor, Tensor]:
        """Both of them, -inf at padding, which no probability goes to."""
        y, t = self.ours.double(), self.teacher.double()
        return (y, t) if self.real is None else (y.where(self.real, -torch.inf), t.where(self.real, -torch.inf))

    @cached_property
    def lost(self) -> Tensor:
        """Positions where our logits are NaN, or infinite where the teacher's are not."""
        ours, teacher = self.logits
        return (ours.isnan() | ((ours == torch.inf) & (teacher != torch.inf))).any(-1)

    @cached_property
    def positions(self) -> Tensor:
        """1 at positions that count."""
        return self.counted.numbers.any(-1).double()

    def over_positions(self, value: Tensor) -> Tensor:
        """(samples,): the sum of a value over the positions that count."""
        return torch.where(self.positions > 0, value, 0.0).reshape(len(self.ours), -1).sum(1)


@dataclass(frozen=True, eq=False)
class Batch:
    """What metrics read.

    Attributes:
        pairs: one for each output.
        labels: (samples,) of int64.
        tokens: (samples, tokens) of integers that the logits predict, shifted by one.
        by_token: logits (samples, tokens, classes) count as logits; hidden states have the same shape.
    """

    pairs: Sequence[Pair]
    labels: Tensor | None = None
    tokens: Tensor | None = None
    by_token: bool = False

    @property
    def logits(self) -> Pair | None:
        """The one output, where it is logits."""
        axes = (2, 3) if self.by_token else (2,)
        return self.pairs[0] if self._axes in axes else None

    @property
    def classes(self) -> Pair | None:
        """The one output, where it is logits (samples, classes)."""
        return self.pairs[0] if self._axes == 2 else None

    @property
    def predictions(self) -> Pair | None:
        """The one output, where it has logits for each of the tokens, and there is one to predict."""
        if self.tokens is None or self._axes != 3:
            return None
        fits = self.pairs[0].ours.shape[:2] == self.tokens.shape and self.tokens.shape[1] > 1
        return self.pairs[0] if fits else None

    @cached_property
    def numeric(self) -> list[Pair]:
        """The outputs that are not codes."""
        return [pair for pair in self.pairs if not pair.is_code]

    @cached_property
    def numbers(self) -> list[tuple[Tensor, Tensor]]:
        """Those of ours and of the teacher, (samples, elements) for each output that is not of codes."""
        return [pair.numbers for pair in self.numeric]

    @cached_property
    def sizes(self) -> tuple[Tensor, Tensor]:
        """(samples,): sums of squares of our numbers, and of the teacher's."""
        ours, teacher = (self.total(pair[side].square().sum(1) for pair in self.numbers) for side in (0, 1))
        return ours, teacher

    @cached_property
    def broken(self) -> Tensor:
        """(samples,): whose numbers are infinitely far from the teacher's."""
        return torch.stack([pair.is_broken for pair in self.numeric]).any(0) | ~self.sizes[0].isfinite()

    @cached_property
    def codes(self) -> tuple[Tensor, Tensor] | None:
        """(samples,): integers and bools that are not the teacher's, and their number; None where there are none."""
        coded = [pair.counted for pair in self.pairs if pair.is_code]
        if not coded:
            return None
        differing = self.total(_by_sample(found.differ).sum(1) for found in coded)
        return differing, self.total(_by_sample(found.codes).sum(1) for found in coded)

    def total(self, parts: Iterable[Tensor]) -> Tensor:
        """The sum of a value of each sample over outputs."""
        return sum(parts, self.pairs[0].ours.new_zeros(len(self.pairs[0].ours), dtype=torch.float64))

    @property
    def _axes(self) -> int | None:
        return logit_axes([pair.teacher for pair in self.pairs])


def logit_axes(outputs: Sequence[Values]) -> int | None:
    """2 for one output that can be logits (samples, classes), 3 for (samples, tokens, classes), None for others."""
    if len(outputs) != 1 or not outputs[0].is_floating_point():
        return None
    axes = outputs[0].ndim
    return axes if axes in (2, 3) and outputs[0].shape[-1] > 1 else None


def _by_sample(value: Tensor) -> Tensor:
    return value.reshape(len(value), -1)
