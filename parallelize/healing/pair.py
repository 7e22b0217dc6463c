"""Teacher and student as functions of inputs and weights, on the device where the student is trained.

    teacher(inputs)             ->  outputs and states
    student(inputs, weights)    ->  the same

Both are cut out of their graphs and share what is not trained.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from parallelize.data import Samples
from parallelize.data.padding import layouts, mask_position
from parallelize.healing.loss import Distance
from parallelize.healing.weights import Weight
from parallelize.models.placement import on_device
from parallelize.models.states import output_tensors, placeholders
from parallelize.refitting.records import Refitted
from passes.errors import ParallelizeError
from passes.graph.dataflow import is_float, tensor_value
from passes.graph.segment import extract


@dataclass(frozen=True)
class Pair:
    """A student, its teacher and how their values are compared.

    Attributes:
        teacher: inputs -> values.
        student: inputs, then weights -> values.
        weights: what is trained.
        distance: compares the values.
        device: where all of it is.
    """

    teacher: fx.GraphModule
    student: fx.GraphModule
    weights: tuple[Weight, ...]
    distance: Distance
    device: torch.device

    def taught(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The teacher's values."""
        with torch.no_grad(), self._precision():
            values: tuple[Tensor, ...] = self.teacher(*inputs)
        return values

    def answered(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The student's values with its present weights."""
        with self._precision():
            read = (weight_value for weight in self.weights for weight_value in [weight.value()] * len(weight.nodes))
            values: tuple[Tensor, ...] = self.student(*inputs, *read)
        return values

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        """Bfloat16 where it is faster: products on a GPU."""
        is_gpu = self.device.type == "cuda"
        return torch.autocast("cuda", torch.bfloat16) if is_gpu else contextlib.nullcontext()


def pair(
    teacher: fx.GraphModule,
    refitted: Refitted,
    weights: Sequence[Weight],
    samples: Samples,
    device: torch.device,
    *,
    logits: bool,
) -> Pair:
    """Cut teacher and student out of their graphs.

    Raises:
        ParallelizeError: `logits` where the model does not return one tensor of logits.
    """
    values = []
    for module, names in ((teacher, [b for _, b in refitted.ends]), (refitted.module, [a for a, _ in refitted.ends])):
        by_name = {node.name: node for node in module.graph.nodes}
        values.append((output_tensors(module), [by_name[name] for name in names]))
    (outputs, states), (our_outputs, our_states) = values
    if logits:
        _require_logits(outputs)
    elif not any(is_float(node) for node in outputs):
        raise ParallelizeError("Healing needs an output of floating-point numbers.", "Return logits or scores as well.")
    found = layouts(teacher, samples, [*outputs, *states])
    if logits and outputs[0].meta["val"].ndim == 2:
        found[0] = None  # its second axis is that of the classes
    given = [*placeholders(refitted.module), *(node for weight in weights for node in weight.nodes)]
    return Pair(
        on_device(extract(teacher, placeholders(teacher), [*outputs, *states]), device),
        on_device(extract(refitted.module, given, [*our_outputs, *our_states]), device),
        tuple(weights),
        Distance(logits, len(outputs), tuple(found), mask_position(samples)),
        device,
    )


def _require_logits(outputs: Sequence[fx.Node]) -> None:
    value = tensor_value(outputs[0]) if len(outputs) == 1 else None
    if value is None or value.ndim < 2 or not value.is_floating_point():
        raise ParallelizeError(
            "Healing by KL needs one output of logits, (samples, classes) or (samples, tokens, vocabulary).",
            "Use --metric relative-l2.",
        )
