"""What a group of blocks costs: the error of the model's outputs when only this group runs side by side.

Everything else stays serial and the group gets an affine refit, on a few samples. Errors of disjoint groups nearly add
up, so these costs propose schedules; what comes out is measured as a whole network. A group that makes the outputs NaN
costs infinitely much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf, isnan, prod

from torch import fx

from parallelize.data import Samples
from parallelize.metrics import Judge
from parallelize.models.states import Batch, batch_size, example_size, outputs_from, start_batches
from parallelize.planning.forms import GroupForm, main_form
from parallelize.refitting.walk import StackWalk
from passes.graph.editing import clone
from passes.plan import Level, Plan, Refit, StackPlan, serial
from passes.schedule.apply_plan import schedule
from passes.stacks.channels import channel_axis
from passes.stacks.find import Stack

ROWS = 12_800  # positions of the state that a cost is fitted on
LEAST_SAMPLES, MOST_SAMPLES = 16, 256


class GroupCosts:
    """Measures groups of the blocks of a model, and remembers what was measured.

    Attributes:
        known: errors by stack number, span and form name; may be filled from an earlier run.
    """

    def __init__(
        self,
        teacher: fx.GraphModule,
        stacks: Sequence[Stack],
        fit: Samples,
        judge: Judge,
        strength: Refit,
        known: dict[str, float] | None = None,
    ) -> None:
        self.teacher, self.stacks, self.judge = teacher, stacks, judge
        self.strength: Refit = "none" if strength == "none" else "affine"
        count = sample_count(stacks)
        self.fit, self.held_out = fit.head(count), judge.samples.head(count)
        self.batch_size = batch_size(teacher)
        self.known = {} if known is None else known
        self._parts: tuple[tuple[int, int], tuple[list[Batch], list[Batch]]] | None = None

    def key(self, number: int, form: GroupForm) -> str:
        """The name of a measurement in `known`."""
        return f"{number} {form.first}-{form.last} {form.name}"

    def cost(self, number: int, form: GroupForm) -> float:
        """The error of the model's outputs on held-out samples with one group of one stack in this form."""
        if form.first == form.last:
            return 0.0
        key = self.key(number, form)
        if key not in self.known:
            error = self._measure(number, form)
            self.known[key] = inf if isnan(error) else error
        return self.known[key]

    def is_known(self, number: int, form: GroupForm) -> bool:
        """Whether the cost of a group is there without a measurement."""
        return form.first == form.last or self.key(number, form) in self.known

    def _measure(self, number: int, form: GroupForm) -> float:
        stack = self.stacks[number]
        before = [level for block in range(form.first) for level in _serial(stack, block)]
        after = [level for block in range(form.last + 1, len(stack.blocks)) for level in _serial(stack, block)]
        part = StackPlan(len(stack.terms), (*before, *form.levels, *after), self.strength)
        others = [serial(len(s.terms)) for s in self.stacks]
        module = clone(self.teacher)
        sites = schedule(module, Plan((*others[:number], part, *others[number + 1 :])))
        parts = tuple([replace(batch) for batch in batches] for batches in self._start(number, form.first))
        walk = StackWalk(self.teacher, stack, module, sites[number], part, (parts[0], parts[1]), len(before))
        for level in range(len(before), len(before) + len(form.levels)):
            walk.refit_level(level)
        outputs = outputs_from(module, walk.entry, ((batch.inputs, batch.state) for batch in parts[1]))
        return self.judge.score_outputs(outputs, [batch.count for batch in parts[1]]).error(self.judge.metric)

    def _start(self, number: int, block: int) -> tuple[list[Batch], list[Batch]]:
        """The samples before a block; those of the last call are kept."""
        if self._parts is None or self._parts[0] != (number, block):
            stack = self.stacks[number]
            state = stack.terms[stack.blocks[block][0]].skip
            both = [start_batches(self.teacher, state, s, self.batch_size) for s in (self.fit, self.held_out)]
            self._parts = (number, block), (both[0], both[1])
        return self._parts[1]


def _serial(stack: Stack, block: int) -> tuple[Level, ...]:
    return main_form(stack, block, block).levels


def sample_count(stacks: Sequence[Stack]) -> int:
    """How many samples hold about ROWS positions of the widest state."""
    rows = max(_positions(stack) for stack in stacks)
    return min(MOST_SAMPLES, max(LEAST_SAMPLES, ROWS // rows))


def _positions(stack: Stack) -> int:
    """Positions of the state in one sample."""
    sizes = [example_size(size) for size in stack.entry.meta["val"].shape]
    del sizes[channel_axis(stack)]
    return max(1, prod(sizes[1:]))
