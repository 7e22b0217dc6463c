"""A **judge** scores networks against the teacher, batch by batch.

The teacher runs once, or not at all where its answers to these samples are known. Its outputs on all samples are kept
as long as the judge is, in their own dtype, in the buffer of the job: for a language model samples x tokens x
vocabulary numbers, of which a file holds what memory does not. Of every other network only one batch of outputs is
there at a time, and a few numbers for each sample are kept. A metric of the user's own needs the whole set in memory,
the teacher's and that of the network that is being scored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import repeat

import torch
from torch import Tensor, fx

from parallelize.data import Samples
from parallelize.data.padding import layouts, output_nodes
from parallelize.machine.device import CPU
from parallelize.metrics.batch import logit_axes
from parallelize.metrics.columns import Columns, Reference, joined
from parallelize.metrics.metric import Metric
from parallelize.metrics.next_tokens import next_tokens
from parallelize.metrics.outputs import Outputs
from parallelize.metrics.own import find_metric, own_columns, own_scores
from parallelize.metrics.scores import Scores
from parallelize.models.answers import no_samples, sample_axes, samples_first, shaped
from parallelize.models.effort import note_run
from passes.graph.outputs import flat_outputs

BATCH_SIZE = 250
_PROBE = 2  # samples whose outputs tell the shapes


class Judge:
    """Scores networks on one set of samples by one metric, and by whatever else costs little."""

    def __init__(
        self,
        teacher: fx.GraphModule,
        samples: Samples,
        metric: Metric | str = "relative-l2",
        batch_size: int = BATCH_SIZE,
    ) -> None:
        """Run the teacher.

        Args:
            teacher: the captured model.
            samples: what networks are scored on.
            metric: what must be measured; other metrics are there where they cost little.
            batch_size: samples at a time, fewer where outputs are large.

        Raises:
            ParallelizeError: the metric cannot be measured for these outputs or this data, or an output has no axis of
                samples.
        """
        self.samples, self.metric = samples, find_metric(metric)
        count = samples.fixed or min(_PROBE, len(samples))
        self._axes = sample_axes(teacher)
        raw = flat_outputs(teacher, samples.batch(count))
        self._device = raw[0].device if raw else CPU
        first = self._samples_first(raw, count)
        self._rows = raw[0].shape[self._axes[0] if self._axes else 0] // count if raw[0].ndim else 0
        self._batch_size = max(
            1, min(batch_size, 2 * samples.buffer.elements // max(1, sum(output[0].numel() for output in first)))
        )
        outputs = samples.room.fitting(lambda: self._all_outputs(teacher, first))
        tokens = None
        if self.metric.reads == "next tokens" and logit_axes(outputs) == 3:
            tokens = next_tokens(samples, outputs[0].shape[2])
        by_token = self.metric.reads == "logits"
        real = [None if mask is None else mask.to(self._device) for mask in self._real(teacher)]
        self._reference = Reference(outputs, real, samples.labels, tokens, by_token)
        self._serial_own: dict[int, Tensor] = {}
        self._require_metric()

    @cached_property
    def serial(self) -> Scores:
        """The teacher's scores against itself: errors of zero, and its values."""
        return self._scores([output[part] for output in self._reference.outputs] for part in self._slices)

    def score(self, module: fx.GraphModule) -> Scores:
        """Run a network on all samples and score it."""
        return self.samples.room.fitting(lambda: self._scores(self._outputs(module)))

    def score_outputs(self, batches: Iterable[Sequence[Tensor]], counts: Iterable[int] | None = None) -> Scores:
        """Score outputs that were made elsewhere.

        Args:
            batches: the network's output tensors in the order of the samples, in batches of any size; they may end
                after the first samples.
            counts: how many samples of each batch count; None is all.
        """
        return self._scores(self._counted(batches, repeat(len(self.samples)) if counts is None else counts))

    def _counted(self, batches: Iterable[Sequence[Tensor]], counts: Iterable[int]) -> Iterator[list[Tensor]]:
        """Samples first, without what fills a batch up."""
        axis = self._axes[0] if self._axes else 0
        for batch, count in zip(batches, counts, strict=False):
            size = batch[0].shape[axis] // self._rows if self._rows else 1
            yield [output[:count].to(self._device) for output in self._samples_first(batch, size)]

    def _samples_first(self, outputs: Sequence[Tensor], count: int) -> list[Tensor]:
        return samples_first(outputs, count, self._axes)

    def _outputs(self, module: fx.GraphModule) -> Iterator[list[Tensor]]:
        """A network's outputs, batch by batch."""
        batches = (_run(module, inputs) for inputs in self.samples.batches(self._batch_size))
        return self._counted(batches, self.samples.counts(self._batch_size))

    def _all_outputs(self, teacher: fx.GraphModule, first: Sequence[Tensor]) -> list[Outputs]:
        """The teacher's outputs on all samples, shaped as those of the first ones."""
        outputs = [Outputs(len(self.samples), output, self.samples.buffer) for output in first]
        for batch in self._teachers(teacher):
            for place, part in zip(outputs, batch, strict=True):
                if part.shape[1:] != place.shape[1:]:
                    raise no_samples(part, len(batch[0]))
                place.add(part)
        return outputs

    def _teachers(self, teacher: fx.GraphModule) -> Iterator[Sequence[Tensor]]:
        """The teacher's outputs, batch by batch, from a run only where they are not known."""
        known = self.samples.answered(teacher)
        if known is None:
            return self._outputs(teacher)
        return ([output[part] for output in known] for part in self._slices)

    @property
    def _slices(self) -> list[slice]:
        """The samples of each batch."""
        starts = range(0, len(self.samples), self._batch_size)
        return [slice(start, start + self._batch_size) for start in starts]

    def _real(self, teacher: fx.GraphModule) -> list[Tensor | None]:
        """Where each of the teacher's outputs on all samples is real, samples first."""
        mask, count = self.samples.every_real(), len(self.samples)
        shapes, found = [shaped(node) for node in output_nodes(teacher)], layouts(teacher, self.samples)
        if mask is None:
            return [None] * len(shapes)
        parts = [None if at is None else at.real(mask, value.ndim) for at, value in zip(found, shapes, strict=True)]
        axes = self._axes if len(self._axes) == len(parts) else [0] * len(parts)
        return [
            None if part is None else samples_first([part], count, [axis])[0]
            for part, axis in zip(parts, axes, strict=True)
        ]

    def _require_metric(self) -> None:
        """Refuse at once what cannot be measured."""
        if self.metric.function is not None:
            self._own_of_serial(len(self.samples))
            return
        Scores(self._reference.compare([output[:1] for output in self._reference.outputs])).error(self.metric)

    def _scores(self, batches: Iterable[Sequence[Tensor]]) -> Scores:
        parts: list[Columns] = []
        whole: list[Sequence[Tensor]] = []
        start = 0
        for batch in batches:
            parts.append(self._reference.compare(batch, start))
            start += len(batch[0])
            if self.metric.function is not None:
                whole.append(batch)
        columns = joined(parts)
        if self.metric.function is None:
            return Scores(columns)
        outputs = [torch.cat(tensors) for tensors in zip(*whole, strict=True)]
        teacher = [output[:start] for output in self._reference.outputs]
        scores = own_scores(self.metric, outputs, teacher, self.samples.head(start))
        return Scores({**columns, self.metric.name: own_columns(scores, self._own_of_serial(start))})

    def _own_of_serial(self, count: int) -> Tensor:
        """The user's scores of the teacher on the first samples."""
        if count not in self._serial_own:
            teacher = [output[:count] for output in self._reference.outputs]
            self._serial_own[count] = own_scores(self.metric, teacher, teacher, self.samples.head(count))
        return self._serial_own[count]


def predict(module: fx.GraphModule, samples: Samples, batch_size: int = BATCH_SIZE) -> list[Tensor]:
    """The model's output tensors over all samples, batch by batch, concatenated on the first axis."""
    batches = []
    for inputs, count in zip(samples.batches(batch_size), samples.counts(batch_size), strict=True):
        batches.append([samples.cut(output, count) for output in flat_outputs(module, inputs)])
    return [torch.cat(parts) for parts in zip(*batches, strict=True)]


def score(outputs: Sequence[Tensor], teacher: Sequence[Tensor], labels: Tensor | None = None) -> Scores:
    """Compare outputs that are there already, all of their positions; (samples, classes) counts as logits."""
    return Scores(Reference(teacher, [None] * len(teacher), labels).compare(outputs))


def _run(module: fx.GraphModule, inputs: Sequence[Tensor]) -> list[Tensor]:
    note_run(module, inputs)
    return flat_outputs(module, inputs)
