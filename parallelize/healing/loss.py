"""How far a student is from its teacher, as a loss without labels.

    outputs   KL(teacher || student) for logits, else |y - t|^2 / |t|^2
    states    |h - t|^2 / |t|^2, averaged over the states that should agree

Every part is a numerator and a denominator, so that a loss over a batch and an error over many batches are the same
quotient. Padding, which an input of (samples, tokens) marks by 0, is in neither, nor is what `passes.graph.agreement`
does not count: forbidden logits, integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from parallelize.data.padding import Layout
from passes.graph.agreement import entries


@dataclass(frozen=True)
class Quotient:
    """Two scalars; quotients of several batches add up part by part."""

    numerator: Tensor
    denominator: Tensor

    def __add__(self, other: Quotient) -> Quotient:
        return Quotient(self.numerator + other.numerator, self.denominator + other.denominator)

    @property
    def value(self) -> Tensor:
        """The quotient; zero where both parts are."""
        return self.numerator / self.denominator.clamp_min(1e-30)


def kl(student: Tensor, teacher: Tensor) -> Quotient:
    """KL(teacher || student) of logits (rows, classes) in nats, over the number of rows that have a number at all."""
    counts = entries(teacher, teacher).numbers.any(1)
    log_p, log_q = wide(teacher[counts]).log_softmax(1), wide(student[counts]).log_softmax(1)
    p = log_p.exp()
    total = (p * torch.where(p > 0, log_p - log_q, 0.0)).sum()
    return Quotient(total, counts.sum().to(total.dtype))


def squared_error(student: Tensor, teacher: Tensor) -> Quotient:
    """|student - teacher|^2 over |teacher|^2, of what is a number in the teacher."""
    numbers = entries(teacher, teacher).numbers
    a, b = (torch.where(numbers, wide(value), 0.0) for value in (student, teacher))
    return Quotient((a - b).square().sum(), b.square().sum())


def wide(value: Tensor) -> Tensor:
    """In float32 at least: sums of many squares overflow half precision."""
    return value if value.dtype == torch.float64 else value.float()


def rows(value: Tensor, mask: Tensor | None, layout: Layout | None) -> Tensor:
    """The value (..., features) as (rows, features), without padding where `layout` says where that is."""
    if mask is None or layout is None:
        return value.reshape(-1, value.shape[-1]) if value.ndim else value.reshape(1, 1)
    return layout.rows(value, mask)


@dataclass(frozen=True)
class Distance:
    """Compares a student's values with its teacher's: first outputs, then states.

    Attributes:
        logits: whether the one output is logits.
        outputs: how many of the values are outputs.
        layouts: for each value where its padding is, None where all of it counts.
        mask: the place of the padding mask among the inputs.
    """

    logits: bool
    outputs: int
    layouts: tuple[Layout | None, ...]
    mask: int | None

    def output_error(self, inputs: Sequence[Tensor], student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Quotient:
        """The error of the outputs over one batch."""
        pairs = self._rows(inputs, student, teacher, slice(0, self.outputs))
        if self.logits:
            return kl(*pairs[0])
        first, *others = [squared_error(a, b) for a, b in pairs if a.is_floating_point()]
        return sum(others, first)

    def parts_of(self, hidden_weight: float) -> int:
        """How many quotients `parts` gives."""
        return len(self.layouts) - self.outputs + 1 if hidden_weight else 1

    def parts(
        self, inputs: Sequence[Tensor], student: Sequence[Tensor], teacher: Sequence[Tensor], hidden_weight: float
    ) -> list[Quotient]:
        """The error of the outputs, and of each state where these have a weight; denominators are the teacher's."""
        outputs = self.output_error(inputs, student, teacher)
        if self.parts_of(hidden_weight) == 1:
            return [outputs]
        pairs = self._rows(inputs, student, teacher, slice(self.outputs, None))
        return [outputs, *(squared_error(a, b) for a, b in pairs)]

    def loss(
        self,
        inputs: Sequence[Tensor],
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        hidden_weight: float,
        over: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """The error of the outputs, and `hidden_weight` times the mean error of the states.

        Args:
            inputs: of a batch.
            student: its values.
            teacher: its values.
            hidden_weight: of the states.
            over: denominators in the place of those of this batch, where it is a share of one.
        """
        parts = self.parts(inputs, student, teacher, hidden_weight)
        if over is not None:
            parts = [
                Quotient(part.numerator, whole.to(part.numerator)) for part, whole in zip(parts, over, strict=True)
            ]
        loss, *states = [part.value for part in parts]
        return loss + hidden_weight * torch.stack(states).mean() if states else loss

    def error(self, total: Quotient) -> float:
        """What is reported of a sum over batches: KL in nats, or the relative L2 error."""
        value = float(total.value)
        return max(value, 0.0) if self.logits else value**0.5

    def _rows(
        self, inputs: Sequence[Tensor], student: Sequence[Tensor], teacher: Sequence[Tensor], part: slice
    ) -> list[tuple[Tensor, Tensor]]:
        mask = None if self.mask is None else inputs[self.mask]
        chosen = zip(student[part], teacher[part], self.layouts[part], strict=True)
        return [(rows(a, mask, at), rows(b, mask, at)) for a, b, at in chosen]
