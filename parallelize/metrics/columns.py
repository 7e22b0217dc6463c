"""What each sample adds to the sums of every metric that can be measured, piece by piece of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from parallelize.metrics.batch import Batch, Pair
from parallelize.metrics.catalogue import known_metrics
from parallelize.metrics.metric import Added, Metric
from passes.graph.agreement import Scale, Values, scale

Columns = Mapping[str, Added]  # by the name of the metric
_PIECE = 2**22  # elements that are compared at a time, in float64


@dataclass(frozen=True, eq=False)
class Reference:
    """The teacher's outputs on a set of samples, with what else a sample is judged by.

    Attributes:
        outputs: the teacher's, samples first; read piece by piece.
        real: for each output bool that spreads over its first axes, samples first, false at padding, or None where all
            of it counts.
        labels: as for a `Batch`.
        tokens: as for a `Batch`; only where a metric of next tokens is asked for.
        by_token: as for a `Batch`.
    """

    outputs: Sequence[Values]
    real: Sequence[Tensor | None]
    labels: Tensor | None = None
    tokens: Tensor | None = None
    by_token: bool = False

    def compare(self, ours: Sequence[Tensor], start: int = 0) -> Columns:
        """Columns of the samples from `start` on, as many as `ours` has."""
        return joined(self._compare(batch, start + at) for at, batch in self._batches(ours, start))

    def _compare(self, batch: Batch, start: int) -> Columns:
        columns = {}
        for metric in self._metrics:
            found = metric.measure(batch)
            if found is None:
                continue
            part = slice(start, start + len(found[0]))
            serial = None if metric.better is None else self._serial[metric.name][part]
            columns[metric.name] = Added(found[0].cpu(), found[1].cpu(), serial)
        return columns

    def _batches(self, ours: Sequence[Values], start: int = 0) -> Iterator[tuple[int, Batch]]:
        """Pieces that are small enough, and where each begins."""
        step = max(1, _PIECE // max(1, sum(output.numel() // max(1, len(output)) for output in ours)))
        for at in range(0, len(ours[0]), step):
            yield at, self._batch([output[at : at + step] for output in ours], start + at)

    def _batch(self, ours: Sequence[Tensor], start: int) -> Batch:
        """On our device, wherever the teacher's outputs are kept."""
        part = slice(start, start + len(ours[0]))

        def beside(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[part].to(ours[0].device)

        of_each = zip(ours, self.outputs, self._spread, self._scales, strict=True)
        pairs = [Pair(y, t[part].to(y.device), beside(real), known) for y, t, real, known in of_each]
        return Batch(pairs, beside(self.labels), beside(self.tokens), self.by_token)

    @cached_property
    def _metrics(self) -> list[Metric]:
        return list(known_metrics().values())

    @cached_property
    def _scales(self) -> list[Scale]:
        """Of all samples together: whether a value is a fill is not asked of each batch anew."""
        return [scale(output, mask) for output, mask in zip(self.outputs, self._spread, strict=True)]

    @cached_property
    def _spread(self) -> list[Tensor | None]:
        """Masks of as many axes as their outputs."""
        pairs = zip(self.outputs, self.real, strict=True)
        return [None if r is None else r.reshape(*r.shape, *[1] * (t.ndim - r.ndim)) for t, r in pairs]

    @cached_property
    def _serial(self) -> dict[str, Tensor]:
        """What the teacher's own values are made of, computed once."""
        valued = [metric for metric in self._metrics if metric.better is not None]
        parts = [
            {metric.name: found[0].cpu() for metric in valued if (found := metric.measure(batch)) is not None}
            for _, batch in self._batches(self.outputs)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def joined(parts: Iterable[Columns]) -> Columns:
    """Columns of consecutive samples as one."""
    every = list(parts)
    return {name: _joined([part[name] for part in every]) for name in every[0]}


def _joined(parts: Sequence[Added]) -> Added:
    serial = [part.serial for part in parts if part.serial is not None]
    ours, weight = (torch.cat(values) for values in ([p.ours for p in parts], [p.weight for p in parts]))
    return Added(ours, weight, torch.cat(serial) if serial else None)
