"""A **judge** scores networks against the teacher, batch by batch.

The teacher runs once. Its outputs on all samples stay in memory as long as the judge does, in their own dtype: for a
language model samples x tokens x vocabulary numbers, which bounds the samples that can be judged. Of every other
network only one batch of outputs is there at a time, and a few numbers for each sample are kept. A metric of the user's
own needs the whole set, so with one the outputs of the network that is being scored are collected too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from parallelize.inputs import Samples
from parallelize.metrics.catalogue import METRICS, Metric
from parallelize.metrics.columns import Columns, Reference, joined, logit_axes
from parallelize.metrics.next_tokens import next_tokens
from parallelize.metrics.own import find_metric, own_scores
from parallelize.metrics.scores import Scores
from passes.errors import ParallelizeError
from passes.infra import flat_outputs

BATCH_SIZE = 250
_AT_ONCE = 2**26  # elements of a batch's outputs
_PROBE = 2  # samples whose outputs tell the shapes
_BY_TOKEN = METRICS["kl"].columns | METRICS["disagreement"].columns


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
        probe = next(iter(samples.batches(_PROBE)))
        raw = flat_outputs(teacher, probe)
        first = samples_first(raw, len(probe[0]))
        self._rows = len(raw[0]) // len(probe[0])
        self._batch_size = max(1, min(batch_size, _AT_ONCE // max(1, sum(output[0].numel() for output in first))))
        outputs = self._all_outputs(teacher, first)
        tokens = None
        if self.metric == METRICS["perplexity"] and logit_axes(outputs) == 3:
            tokens = next_tokens(samples, outputs[0].shape[2])
        by_token = self.metric.columns <= _BY_TOKEN
        self._reference = Reference(outputs, _real(teacher, samples, outputs), samples.labels, tokens, by_token)
        self._serial_own: dict[int, Tensor] = {}
        self._require_metric()

    @cached_property
    def serial(self) -> Scores:
        """The teacher's scores against itself: errors of zero, and its values."""
        return self._scores([self._reference.outputs])

    def score(self, module: fx.GraphModule) -> Scores:
        """Run a network on all samples and score it."""
        return self.score_outputs(flat_outputs(module, inputs) for inputs in self.samples.batches(self._batch_size))

    def score_outputs(self, batches: Iterable[Sequence[Tensor]]) -> Scores:
        """Score outputs that were made elsewhere.

        Args:
            batches: the network's output tensors in the order of the samples, in batches of any size; they may end
                after the first samples.
        """
        return self._scores(samples_first(batch, len(batch[0]) // self._rows) for batch in batches)

    def _all_outputs(self, teacher: fx.GraphModule, first: Sequence[Tensor]) -> list[Tensor]:
        """The teacher's outputs on all samples, shaped as those of the first ones."""
        outputs = [output.new_empty(len(self.samples), *output.shape[1:]) for output in first]
        start = 0
        for inputs in self.samples.batches(self._batch_size):
            count = len(inputs[0])
            for place, part in zip(outputs, samples_first(flat_outputs(teacher, inputs), count), strict=True):
                if part.shape[1:] != place.shape[1:]:
                    raise _no_samples(part, count)
                place[start : start + count] = part
            start += count
        return outputs

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
        own = {"score": scores, "score_serial": self._own_of_serial(start), "scores": torch.ones_like(scores)}
        return Scores({**columns, **own})

    def _own_of_serial(self, count: int) -> Tensor:
        """The user's scores of the teacher on the first samples."""
        if count not in self._serial_own:
            teacher = [output[:count] for output in self._reference.outputs]
            self._serial_own[count] = own_scores(self.metric, teacher, teacher, self.samples.head(count))
        return self._serial_own[count]


def predict(module: fx.GraphModule, samples: Samples, batch_size: int = BATCH_SIZE) -> list[Tensor]:
    """The model's output tensors over all samples, batch by batch, concatenated on the first axis."""
    batches = [flat_outputs(module, inputs) for inputs in samples.batches(batch_size)]
    return [torch.cat(parts) for parts in zip(*batches, strict=True)]


def score(outputs: Sequence[Tensor], teacher: Sequence[Tensor], labels: Tensor | None = None) -> Scores:
    """Compare outputs that are there already, all of their positions; (samples, classes) counts as logits."""
    return Scores(Reference(teacher, [None] * len(teacher), labels).compare(outputs))


def samples_first(outputs: Sequence[Tensor], count: int) -> list[Tensor]:
    """Outputs with an axis of `count` samples; (samples * rows, ...) becomes (samples, rows, ...).

    Raises:
        ParallelizeError: an output without an axis of samples.
    """
    for output in outputs:
        if output.ndim == 0 or len(output) == 0 or len(output) % count:
            raise _no_samples(output, count)
    return [o if len(o) == count else o.reshape(count, len(o) // count, *o.shape[1:]) for o in outputs]


def _no_samples(output: Tensor, count: int) -> ParallelizeError:
    shape = "x".join(map(str, output.shape)) or "()"
    return ParallelizeError(
        f"An output has the shape {shape} for {count} samples: its first axis is not that of the samples.",
        "Let the model return only tensors whose first axis is the batch.",
    )


def _real(teacher: fx.GraphModule, samples: Samples, outputs: Sequence[Tensor]) -> list[Tensor | None]:
    """The mask for each output that it covers: whose first two axes are (samples, tokens).

    The second axis of an output of two may as well count classes: there it must be the mask's free dimension.
    """
    mask = next(samples.real(len(samples)))
    if mask is None or samples.mask is None:
        return [None] * len(outputs)
    placeholders = teacher.graph.find_nodes(op="placeholder")
    tokens = _free_dimension(placeholders[list(samples.arrays).index(samples.mask)])
    leaves = [leaf for leaf in pytree.tree_leaves(teacher.graph.output_node().args) if isinstance(leaf, fx.Node)]
    free = [tokens is not None and _free_dimension(leaf) == tokens for leaf in leaves]
    covered = [o.shape[:2] == mask.shape and (o.ndim > 2 or f) for o, f in zip(outputs, free, strict=True)]
    return [mask if is_covered else None for is_covered in covered]


def _free_dimension(node: fx.Node) -> str | None:
    """The name of the second axis of a node's value, where its size is free."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.ndim < 2 or not isinstance(value.shape[1], torch.SymInt):
        return None
    return str(value.shape[1])
