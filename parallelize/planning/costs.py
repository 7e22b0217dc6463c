"""What a group of blocks costs: the error of the model's outputs when only this group runs side by side.

Everything else stays serial and the group gets an affine refit, on a few samples. Errors of disjoint groups nearly add
up, so these costs propose schedules; what comes out is measured as a whole network. A group that makes the outputs NaN
costs infinitely much.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from math import inf, isnan

import torch
from torch import fx

from parallelize.data import Samples
from parallelize.machine.ranks import ALONE, Ranks
from parallelize.machine.torch_settings import whole_float32
from parallelize.metrics import Judge
from parallelize.models.effort import counted_spread
from parallelize.models.states import batch_size, outputs_from
from parallelize.planning.forms import GroupForm, main_form
from parallelize.planning.sample_counts import fit_count, judged_count
from parallelize.planning.teacher_states import TeacherStates
from parallelize.refitting.walk import StackWalk
from passes.graph.editing import clone
from passes.plan import Level, Plan, Refit, StackPlan, serial
from passes.schedule.apply_plan import schedule
from passes.stacks.find import Stack

MOST_JUDGED = 64  # samples that costs are compared on at most


class GroupCosts:
    """Measures groups of the blocks of a model, and remembers what was measured.

    With several ranks what may be asked for next is measured at the same time. That is kept apart, so that nobody knows
    of it who has not asked for it: what is asked for next does not depend on how many ranks there are.

    Attributes:
        known: errors by stack number, span and form name; may be filled from an earlier run.
        ahead: those that were measured and not asked for yet.
    """

    def __init__(
        self,
        teacher: fx.GraphModule,
        stacks: Sequence[Stack],
        fit: Samples,
        judge: Judge,
        strength: Refit,
        known: dict[str, float] | None = None,
        ahead: dict[str, float] | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.teacher, self.stacks, self.judge = teacher, stacks, judge
        self.strength: Refit = "none" if strength == "none" else "affine"
        self.fit = fit.head(fit_count(stacks))
        self.held_out = judge.samples.head(judged_count(stacks, MOST_JUDGED))
        self.batch_size = batch_size(teacher, elements=fit.buffer.elements)
        self.known = {} if known is None else known
        self.ahead = {} if ahead is None else ahead
        self._measured = counted_spread(ranks, "groups", self._error)
        self._states = TeacherStates(teacher, stacks, (self.fit, self.held_out), self.batch_size)

    def key(self, number: int, form: GroupForm) -> str:
        """The name of a measurement in `known`."""
        return f"{number} {form.first}-{form.last} {form.name}"

    def cost(self, number: int, form: GroupForm) -> float:
        """The error of the model's outputs on held-out samples with one group of one stack in this form."""
        if form.first == form.last:
            return 0.0
        key = self.key(number, form)
        if key not in self.known:
            self.known[key] = self.ahead.pop(key) if key in self.ahead else self._error((number, form))
        return self.known[key]

    def look_ahead(self, groups: Iterable[tuple[int, GroupForm]]) -> Generator[None, None, None]:
        """Measure groups that are or may be asked for, on all ranks; control comes back after each of them."""
        wanted = {self.key(number, form): (number, form) for number, form in groups if not self.is_there(number, form)}
        for key, error in zip(wanted, self._measured(list(wanted.values())), strict=True):
            self.ahead[key] = error
            yield

    def is_known(self, number: int, form: GroupForm) -> bool:
        """Whether the cost of a group was asked for before, and is there without a measurement."""
        return form.first == form.last or self.key(number, form) in self.known

    def is_there(self, number: int, form: GroupForm) -> bool:
        """Whether the cost of a group is there, asked for or not."""
        return self.is_known(number, form) or self.key(number, form) in self.ahead

    def _error(self, group: tuple[int, GroupForm]) -> float:
        error = self.fit.room.fitting(lambda: self._tried(*group))
        return inf if isnan(error) else error

    def _tried(self, number: int, form: GroupForm) -> float:
        try:
            return self._measure(number, form)
        except torch.OutOfMemoryError:
            self._states.clear()  # they are of batches that do not fit
            raise

    @whole_float32()
    def _measure(self, number: int, form: GroupForm) -> float:
        stack = self.stacks[number]
        before = [level for block in range(form.first) for level in _serial(stack, block)]
        after = [level for block in range(form.last + 1, len(stack.blocks)) for level in _serial(stack, block)]
        part = StackPlan(len(stack.terms), (*before, *form.levels, *after), self.strength)
        others = [serial(len(s.terms)) for s in self.stacks]
        module = clone(self.teacher)
        sites = schedule(module, Plan((*others[:number], part, *others[number + 1 :])))
        parts = self._states.around(number, form.first, form.first - 1 if self.strength == "none" else form.last)
        walk = StackWalk(self.teacher, stack, module, sites[number], part, parts, len(before))
        for level in range(len(before), len(before) + len(form.levels)):
            walk.refit_level(level)
        walk.go_on(choosing_only=True)
        outputs = outputs_from(module, walk.entry, ((batch.inputs, batch.state.value) for batch in parts[1]))
        return self.judge.score_outputs(outputs, [batch.count for batch in parts[1]]).error(self.judge.metric)


def _serial(stack: Stack, block: int) -> tuple[Level, ...]:
    return main_form(stack, block, block).levels
