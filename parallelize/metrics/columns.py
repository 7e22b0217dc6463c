"""What each sample adds to the sums that metrics are made of.

| columns | for one sample |
|---|---|
| samples | 1 |
| error, size | sum of (y - t)^2 and of t^2, all numbers of all outputs together; y: ours, t: the teacher's |
| turned, directions | 1 - y.t / (abs(y) abs(t)), all numbers as one vector, and 1; 0 and 0 where both are zero |
| differing, codes | integers and bools that are not the teacher's, and their number |
| divergence, positions | sum over positions of KL(teacher's softmax, ours) in nats, and the number of positions |
| moved | positions whose largest logit is another one than the teacher's |
| right, right_serial | 1 where the largest logit is the label, of ours and of the teacher |
| surprise, surprise_serial, targets | -sum of log p(next token), of ours and of the teacher, and the number of tokens |

Positions are one for logits (samples, classes) and the tokens for logits (samples, tokens, classes). What counts as a
number is told by `passes.graph.agreement`: neither padding nor forbidden logits do, whatever stands there. Where the
teacher has no number and ours another pattern, and where ours is no number, an error is infinite. A position without a
single logit that is a number counts nowhere. Where all outputs are integers or bools, these are `error` and `size` too.
All columns are float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from passes.graph.agreement import Entries, Scale, entries, is_code, scale

Columns = Mapping[str, Tensor]
_PIECE = 2**22  # elements that are compared at a time, in float64


@dataclass(frozen=True, eq=False)
class Reference:
    """The teacher's outputs on a set of samples, with what else a sample is judged by.

    Attributes:
        outputs: the teacher's, samples first.
        real: for each output bool that spreads over its first axes, samples first, false at padding, or None where all
            of it counts.
        labels: (samples,) of int64.
        tokens: (samples, tokens) of integers that the logits predict, shifted by one; only for perplexity.
        by_token: logits (samples, tokens, classes) count as logits; hidden states have the same shape.
    """

    outputs: Sequence[Tensor]
    real: Sequence[Tensor | None]
    labels: Tensor | None = None
    tokens: Tensor | None = None
    by_token: bool = False

    def compare(self, ours: Sequence[Tensor], start: int = 0) -> Columns:
        """Columns of the samples from `start` on, as many as `ours` has."""
        step = max(1, _PIECE // max(1, sum(output[0].numel() for output in ours)))
        pieces = range(0, len(ours[0]), step)
        return joined(self._compare([output[i : i + step] for output in ours], start + i) for i in pieces)

    def _compare(self, ours: Sequence[Tensor], start: int) -> Columns:
        part = slice(start, start + len(ours[0]))
        outputs, real = [t[part] for t in self.outputs], [None if r is None else r[part] for r in self._spread]
        pairs = [
            _Pair(y, t, mask, entries(t, y, mask, known))
            for y, t, mask, known in zip(ours, outputs, real, self._scales, strict=True)
        ]
        columns = {"samples": torch.ones(len(ours[0]), dtype=torch.float64), **_distance(pairs)}
        axes = logit_axes(self.outputs)
        if axes == 2 or (axes == 3 and self.by_token):
            columns |= _divergence(pairs[0])
        if axes == 2 and self.labels is not None:
            columns["right"] = _right(ours[0], self.labels[part])
            columns["right_serial"] = _right(outputs[0], self.labels[part])
        if self._predicts and self.tokens is not None:
            columns["surprise"], columns["targets"] = _surprise(ours[0], self.tokens[part], _by_token(real[0]))
            columns["surprise_serial"] = self._serial_surprise[part]
        return columns

    @cached_property
    def _scales(self) -> list[Scale]:
        """Of all samples together: whether a value is a fill is not asked of each batch anew."""
        return [scale(output, mask) for output, mask in zip(self.outputs, self._spread, strict=True)]

    @cached_property
    def _spread(self) -> list[Tensor | None]:
        """Masks of as many axes as their outputs."""
        pairs = zip(self.outputs, self.real, strict=True)
        return [None if r is None else r.reshape(*r.shape, *[1] * (t.ndim - r.ndim)) for t, r in pairs]

    @property
    def _predicts(self) -> bool:
        """Whether the teacher's output has logits for each token, and there is one to predict."""
        if self.tokens is None or logit_axes(self.outputs) != 3:
            return False
        return self.outputs[0].shape[:2] == self.tokens.shape and self.tokens.shape[1] > 1

    @cached_property
    def _serial_surprise(self) -> Tensor:
        """The teacher's, computed once."""
        (logits,), (real,) = self.outputs, self.real
        assert self.tokens is not None
        step = max(1, _PIECE // logits[0].numel())
        parts = [slice(i, i + step) for i in range(0, len(logits), step)]
        real = _by_token(real)
        return torch.cat([_surprise(logits[p], self.tokens[p], None if real is None else real[p])[0] for p in parts])


def joined(parts: Iterable[Columns]) -> Columns:
    """Columns of consecutive samples as one."""
    every = list(parts)
    return {name: torch.cat([part[name] for part in every]) for name in every[0]}


def logit_axes(outputs: Sequence[Tensor]) -> int | None:
    """2 for one output that can be logits (samples, classes), 3 for (samples, tokens, classes), None for others."""
    if len(outputs) != 1 or not outputs[0].is_floating_point():
        return None
    axes = outputs[0].ndim
    return axes if axes in (2, 3) and outputs[0].shape[-1] > 1 else None


@dataclass(frozen=True, eq=False)
class _Pair:
    """One output of ours and the teacher's, where it is real, and what of it counts."""

    ours: Tensor
    teacher: Tensor
    real: Tensor | None
    counted: Entries

    @property
    def is_code(self) -> bool:
        return is_code(self.teacher)

    @property
    def is_broken(self) -> Tensor:
        """(samples,): where a pattern is another one, or ours is NaN where it should be a number."""
        lost = self.counted.numbers & self.ours.isnan()
        return _by_sample(self.counted.differ | lost).any(1)

    @property
    def numbers(self) -> tuple[Tensor, Tensor]:
        """Both as (samples, elements) in float64, zero where no numbers are compared."""
        y, t = (torch.where(self.counted.numbers, value, 0).double() for value in (self.ours, self.teacher))
        return _by_sample(y), _by_sample(t)

    @property
    def logits(self) -> tuple[Tensor, Tensor]:
        """Both in float64, -inf at padding, which no probability goes to."""
        y, t = self.ours.double(), self.teacher.double()
        return (y, t) if self.real is None else (y.where(self.real, -torch.inf), t.where(self.real, -torch.inf))


def _by_sample(value: Tensor) -> Tensor:
    return value.reshape(len(value), -1)


def _by_token(real: Tensor | None) -> Tensor | None:
    """(samples, tokens) of a mask that spreads over logits (samples, tokens, classes)."""
    return None if real is None else real.flatten(1)


def _distance(pairs: Sequence[_Pair]) -> dict[str, Tensor]:
    """The sums over all outputs; those of codes are columns of their own."""
    coded = [pair.counted for pair in pairs if pair.is_code]
    codes = {}
    if coded:
        differing, count = (
            torch.stack([_by_sample(value).sum(1).double() for value in values]).sum(0)
            for values in ([found.differ for found in coded], [found.codes for found in coded])
        )
        codes = {"differing": differing, "codes": count}
        if len(coded) == len(pairs):
            turned = differing / count.clamp_min(1)
            return {"error": differing, "size": count, "turned": turned, "directions": (count > 0).double(), **codes}
    return {**_of_numbers([pair for pair in pairs if not pair.is_code]), **codes}


def _of_numbers(pairs: Sequence[_Pair]) -> dict[str, Tensor]:
    error, size, ours_size, product = torch.zeros(4, len(pairs[0].ours), dtype=torch.float64)
    broken = torch.zeros_like(error, dtype=torch.bool)
    for pair in pairs:
        y, t = pair.numbers
        error = error + (y - t).square().sum(1)
        size, ours_size = size + t.square().sum(1), ours_size + y.square().sum(1)
        product, broken = product + (y * t).sum(1), broken | pair.is_broken
    broken = broken | ~ours_size.isfinite()
    somewhere = (size != 0) | (ours_size != 0)
    cosine = product / (size * ours_size).sqrt().where((size != 0) & (ours_size != 0), 1.0)
    turned = torch.where(somewhere, 1 - cosine.clamp(-1, 1), 0.0)
    error, turned = (torch.where(broken, torch.inf, column) for column in (error, turned))
    return {"error": error, "size": size, "turned": turned, "directions": (somewhere | broken).double()}


def _divergence(pair: _Pair) -> dict[str, Tensor]:
    """Classes that the teacher forbids add nothing, not 0 times infinity; one that only ours forbids is infinite."""
    ours, teacher = pair.logits
    log_q, log_p = ours.log_softmax(-1), teacher.log_softmax(-1)
    p = log_p.exp()
    divergence = torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1)
    lost = (ours.isnan() | ((ours == torch.inf) & (teacher != torch.inf))).any(-1)
    moved = ((ours.argmax(-1) != teacher.argmax(-1)) | lost).double()
    counts = pair.counted.numbers.any(-1).double()
    divergence = torch.where(lost | divergence.isnan(), torch.inf, divergence)
    divergence, moved = (torch.where(counts > 0, column, 0.0) for column in (divergence, moved))
    by_name = {"divergence": divergence, "moved": moved, "positions": counts}
    return {name: column.reshape(len(pair.ours), -1).sum(1) for name, column in by_name.items()}


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    return ((logits.argmax(1) == labels) & ~logits.isnan().any(1)).double()


def _surprise(logits: Tensor, tokens: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor]:
    """-log p of every next token, summed over those that are real and follow a real one, and their number."""
    log_p, following = logits[:, :-1].double().log_softmax(-1), tokens[:, 1:].long()
    surprise = -log_p.gather(2, following[..., None]).squeeze(2)
    surprise = torch.where(surprise.isnan(), torch.inf, surprise)
    counts = torch.ones_like(surprise) if real is None else (real[:, :-1] & real[:, 1:]).double()
    return torch.where(counts > 0, surprise, 0.0).sum(1), counts.sum(1)
