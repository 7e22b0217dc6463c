"""What each sample adds to the sums that metrics are made of.

| columns | for one sample |
|---|---|
| samples | 1 |
| error, size | sum of (y - t)^2 and of t^2, all outputs together; y: ours, t: the teacher's |
| turned, directions | 1 - y.t / (abs(y) abs(t)), all outputs as one vector, and 1; 0 and 0 where both are zero |
| divergence, positions | sum over positions of KL(teacher's softmax, ours) in nats, and the number of positions |
| moved | positions whose largest logit is another one than the teacher's |
| right, right_serial | 1 where the largest logit is the label, of ours and of the teacher |
| surprise, surprise_serial, targets | -sum of log p(next token), of ours and of the teacher, and the number of tokens |

Positions are one for logits (samples, classes) and the tokens for logits (samples, tokens, classes). Padding is left
out: positions that are not real count in no column, whatever stands there. All columns are float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

Columns = Mapping[str, Tensor]
_PIECE = 2**22  # elements that are compared at a time, in float64


@dataclass(frozen=True, eq=False)
class Reference:
    """The teacher's outputs on a set of samples, with what else a sample is judged by.

    Attributes:
        outputs: the teacher's, samples first.
        real: for each output bool (samples, tokens), false at padding, or None where all of it counts.
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
        outputs, real = [t[part] for t in self.outputs], [None if r is None else r[part] for r in self.real]
        columns = {"samples": torch.ones(len(ours[0]), dtype=torch.float64), **_distance(ours, outputs, real)}
        axes = logit_axes(self.outputs)
        if axes == 2 or (axes == 3 and self.by_token):
            columns |= _divergence(ours[0], outputs[0], real[0])
        if axes == 2 and self.labels is not None:
            columns["right"] = _right(ours[0], self.labels[part])
            columns["right_serial"] = _right(outputs[0], self.labels[part])
        if self._predicts and self.tokens is not None:
            columns["surprise"], columns["targets"] = _surprise(ours[0], self.tokens[part], real[0])
            columns["surprise_serial"] = self._serial_surprise[part]
        return columns

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


def _distance(ours: Sequence[Tensor], teacher: Sequence[Tensor], real: Sequence[Tensor | None]) -> dict[str, Tensor]:
    error, size, ours_size, product = torch.zeros(4, len(ours[0]), dtype=torch.float64)
    for a, b, mask in zip(ours, teacher, real, strict=True):
        y, t = _counted(a, mask), _counted(b, mask)
        error = error + (y - t).square().sum(1)
        size, ours_size = size + t.square().sum(1), ours_size + y.square().sum(1)
        product = product + (y * t).sum(1)
    somewhere = (size != 0) | (ours_size != 0)
    cosine = product / (size * ours_size).sqrt().where((size != 0) & (ours_size != 0), 1.0)
    turned = torch.where(somewhere, 1 - cosine.clamp(-1, 1), 0.0)
    return {"error": error, "size": size, "turned": turned, "directions": somewhere.double()}


def _counted(output: Tensor, mask: Tensor | None) -> Tensor:
    """(samples, elements) in float64, zero at padding."""
    values = output.double()
    if mask is not None:
        values = torch.where(mask.reshape(*mask.shape, *[1] * (output.ndim - 2)), values, 0.0)
    return values.reshape(len(values), -1)


def _divergence(ours: Tensor, teacher: Tensor, real: Tensor | None) -> dict[str, Tensor]:
    log_q, log_p = ours.double().log_softmax(-1), teacher.double().log_softmax(-1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1)
    moved = (ours.argmax(-1) != teacher.argmax(-1)).double()
    counts = torch.ones_like(moved) if real is None or ours.ndim == 2 else real.double()
    divergence, moved = (torch.where(counts > 0, column, 0.0) for column in (divergence, moved))
    by_name = {"divergence": divergence, "moved": moved, "positions": counts}
    return {name: column.reshape(len(ours), -1).sum(1) for name, column in by_name.items()}


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(1) == labels).double()


def _surprise(logits: Tensor, tokens: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor]:
    """-log p of every next token, summed over those that are real and follow a real one, and their number."""
    log_p, following = logits[:, :-1].double().log_softmax(-1), tokens[:, 1:].long()
    surprise = -log_p.gather(2, following[..., None]).squeeze(2)
    counts = torch.ones_like(surprise) if real is None else (real[:, :-1] & real[:, 1:]).double()
    return torch.where(counts > 0, surprise, 0.0).sum(1), counts.sum(1)
