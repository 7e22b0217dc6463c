"""Closed-form fit of what the branches add that a prefix leaves out.

    A_b, c_b = argmin  |n(x) A_b + c_b - f_b(x)|^2 + lambda (...)           for every branch b of the last level at once

One ridge regression has all branches as targets, because the functions that stand for several branches are the sums of
theirs. The ridge is chosen on held-out samples, and nothing is foretold where that explains nothing there. Padding is
left out.

Nothing is fitted where no state is added, where its channels are not on the last axis, or where the branches are
averaged: a mean of fewer branches needs no stand-in.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from parallelize.data import Samples
from parallelize.machine.torch_settings import whole_float32
from parallelize.models.program import Program
from parallelize.models.states import batch_size, placeholders, run_segment, start_batches
from parallelize.refitting.equations import Equations, Form
from parallelize.refitting.ridge import choose
from passes.graph.dataflow import same_shape, tensor_value
from passes.graph.editing import clone, restore_order
from passes.graph.segment import extract
from passes.graph.shapes import propagate_shapes
from passes.prefixes.level import WideLevel, last_level
from passes.prefixes.rest import Rest, source_of


class RestOfLevel:
    """Fits once what is missing in the prefixes of a network, when it is first asked for."""

    def __init__(self, fit: Samples, held_out: Samples) -> None:
        """Fit nothing yet.

        Args:
            fit: samples for the normal equations.
            held_out: samples that choose the ridge.
        """
        self.fit, self.held_out = fit, held_out
        self._found: list[Rest | None] = []

    @property
    def helps(self) -> bool:
        """Whether anything is foretold; nothing before a first call."""
        return self._found != [] and self._found[0] is not None

    def __call__(self, apart: Program) -> Rest | None:
        """Of a network whose branches are side by side; later calls are of the same one."""
        if not self._found:
            self._found.append(rest_of(apart.module, self.fit, self.held_out))
        return self._found[0]


@whole_float32()
def rest_of(module: fx.GraphModule, fit: Samples, held_out: Samples) -> Rest | None:
    """Fit what each branch of the last level adds, from the state.

    Args:
        module: a graph whose branches are side by side.
        fit: samples for the normal equations.
        held_out: samples that choose the ridge.

    Returns:
        Float64; None where nothing is foretold, as the module's docstring says.
    """
    probed = clone(module)
    level = last_level(probed)
    source = source_of(probed, level)
    if source is None or level.is_mean or not _lies_alike(source, level):
        return None
    restore_order(probed)
    propagate_shapes(probed)
    fitting, judging = (_equations(probed, level, source, part) for part in (fit, held_out))
    choice = choose(fitting, judging)
    if choice.error >= 1:
        return None
    width = fitting.width - 1
    solved = choice.solution.part(0, width + 1).view(width + 1, level.count, -1)
    return Rest(solved[:width].permute(1, 2, 0).contiguous(), solved[width].contiguous())


def _lies_alike(source: fx.Node, level: WideLevel) -> bool:
    """Whether the level adds rows of channels, as its state and the norm of it are."""
    ours, total = tensor_value(source), tensor_value(level.root)
    if ours is None or total is None or not isinstance(total.shape[-1], int):
        return False
    return total.ndim in (2, 3) and same_shape(ours, total)


def _equations(module: fx.GraphModule, level: WideLevel, source: fx.Node, samples: Samples) -> Form:
    """Normal equations of what every branch adds."""
    assert level.state is not None
    outputs = [output for branch in level.branches for output in branch]
    segment = extract(module, [*placeholders(module), level.state], [source, *outputs])
    size = batch_size(module, elements=samples.buffer.elements)
    found: Equations | None = None
    for batch in start_batches(module, level.state, samples, size):
        read, *values = run_segment(segment, (*batch.inputs, batch.state.value))
        rows = batch.rows(read)
        columns = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
        added = _added(level, dict(zip(outputs, values, strict=True)), batch.state.value)
        targets = torch.cat([batch.rows(value) for value in added], 1)
        found = found or Equations(columns.shape[1], targets.shape[1], rows.device, samples.buffer)
        found.add(columns, targets)
    assert found is not None
    return found.columns(slice(None))


def _added(level: WideLevel, values: dict[fx.Node, Tensor], state: Tensor) -> list[Tensor]:
    """What each branch adds, with its share of the state where it brings a copy of it or takes one off."""
    assert level.state is not None
    share = level.kept_factor(level.state, 2) - level.kept_factor(level.state, 1)
    sums = [sum(level.factors[end] * values[end] for end in branch) for branch in level.branches]
    return [total + share * state for total in sums]
