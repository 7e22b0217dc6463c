"""What is known of the groups of neighbouring blocks: the costs of their forms, and the partitions that follow.

1. the main form of every group is measured alone (costs); a form in which the group does not fuse is as deep as
serial and left out (fusibility);
2. dynamic programming splits the blocks of each stack into D groups, for every D at once (partition), and shares
every depth of the whole among the stacks (shared_depth);
3. for a wanted depth, the other forms of the groups that come out are measured too, and 2 is repeated until nothing
changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cached_property

from parallelize.planning.costs import GroupCosts
from parallelize.planning.forms import GroupForm, Span, alike, deletion, forms, main_form, other_forms
from parallelize.planning.fusibility import Fusibility
from parallelize.planning.memory import Memory
from parallelize.planning.partition import Groups, best_partitions
from parallelize.planning.shared_depth import share_depth
from passes.plan import Level
from passes.stacks.stack_graph import StackGraph

Progress = Callable[[str, int, int], None]  # what is measured, done, in all
Partition = tuple[float, tuple[Groups, ...]]  # sum of the costs, and the groups of each stack
LONG_STACK = 16  # blocks from which on groups are limited
LONGEST_GROUP = 4  # of a long stack, in blocks
ROUNDS = 8  # of step 3 at most


class Deadline:
    """The time from which on nothing more is measured that can be left out."""

    def __init__(self, seconds: float | None) -> None:
        self.end = None if seconds is None else time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return self.end is not None and time.monotonic() > self.end


class KnownForms:
    """The table of the forms of groups, which is filled as depths are asked for.

    Attributes:
        graph: of the model's stacks.
        longest: blocks of a group at most; None is all for stacks of up to 16 blocks, else 4.
    """

    def __init__(
        self,
        graph: StackGraph,
        costs: GroupCosts,
        fusibility: Fusibility,
        memory: Memory,
        longest: int | None,
        deadline: Deadline,
        report: Progress,
    ) -> None:
        self.graph, self.costs, self.fusibility, self.memory = graph, costs, fusibility, memory
        self.longest, self.deadline, self.report = longest, deadline, report
        self._partitions: dict[int, Partition] | None = None

    @property
    def partitions(self) -> dict[int, Partition]:
        """For each depth, in blocks, the smallest sum of group costs that is known, and the groups of each stack."""
        if self._partitions is None:
            costs = [{span: min(forms.values()) for span, forms in stack.items()} for stack in self._known]
            pairs = zip(self.graph.stacks, costs, strict=True)
            options = [best_partitions(len(stack.blocks), of_stack) for stack, of_stack in pairs]
            self._partitions = share_depth(self.graph.order, options)
        return self._partitions

    def settle(self, depth: int) -> None:
        """Measure other forms of the groups at a depth until the groups stay as they are."""
        for number in range(ROUNDS):
            if not self._measure_other_forms(depth, number):
                return

    def levels(self, depth: int) -> tuple[tuple[Level, ...], ...]:
        """The levels of each stack at a depth, each group in its cheapest form."""
        return tuple(
            tuple(level for span in spans for level in self._cheapest(number, span).levels)
            for number, spans in enumerate(self.partitions[depth][1])
        )

    @cached_property
    def _known(self) -> list[dict[Span, dict[GroupForm, float]]]:
        """For each stack the costs of the forms of its groups, at first of their main forms.

        Groups that the time is too short for are left out, all but the first; where time is limited the short groups
        of all stacks come first.
        """
        known: list[dict[Span, dict[GroupForm, float]]] = [{} for _ in self.graph.stacks]
        spans = [(number, *span) for number in range(len(known)) for span in self._spans(number)]
        if self.deadline.end is not None:
            spans.sort(key=lambda span: span[2] - span[1])
        has_group = False
        for done, (number, first, last) in enumerate(spans):
            form = self._main(number, first, last)
            if has_group and self._is_too_late_for(number, form):
                continue
            known[number][first, last] = {form: self.costs.cost(number, form)}
            has_group |= first < last
            self.memory.keep()
            self.report("measuring groups", done + 1, len(spans))
        self.memory.keep(now=True)
        return known

    def _main(self, number: int, first: int, last: int) -> GroupForm:
        """The form in which a group is measured first: one that fuses, or else deletion, which needs no fusion."""
        stack = self.graph.stacks[number]
        options = (main_form(stack, first, last), *forms(stack, first, last))
        fitting = (form for form in options if self.fusibility.why_not(number, form) is None)
        return next(fitting, None) or deletion(stack, first, last, first)

    def _spans(self, number: int) -> list[Span]:
        """Groups of one stack by their first block, before which samples start; of a long stack only short ones."""
        stack = self.graph.stacks[number]
        count = len(stack.blocks)
        longest = self.longest or (count if count <= LONG_STACK else LONGEST_GROUP)
        spans = [(i, j) for i in range(count) for j in range(i, min(count, i + longest))]
        return [(i, j) for i, j in spans if i == j or alike(stack, i, j)]

    def _measure_other_forms(self, depth: int, round_number: int) -> bool:
        """Measure what is new of the forms of the groups at a depth; whether there was anything.

        Forms that the time is too short for are left out.
        """
        spans = [(n, span) for n, chosen in enumerate(self.partitions[depth][1]) for span in chosen]
        wanted = [(number, form) for number, span in spans for form in self._others(number, span)]
        wanted = [(number, form) for number, form in wanted if form not in self._known[number][form.span]]
        is_new = False
        for done, (number, form) in enumerate(wanted):
            if self._is_too_late_for(number, form):
                continue
            self._known[number][form.span][form] = self.costs.cost(number, form)
            self._partitions, is_new = None, True
            self.memory.keep()
            self.report(f"measuring forms of groups, round {round_number + 1}", done + 1, len(wanted))
        if is_new:
            self.memory.keep(now=True)
        return is_new

    def _others(self, number: int, span: Span) -> Iterator[GroupForm]:
        """The forms to try for a group, given what is known of it."""
        cuts = {form: cost for form, cost in self._known[number][span].items() if form.cut is not None}
        best = min(cuts, key=cuts.__getitem__).cut if cuts else None
        others = other_forms(self.graph.stacks[number], *span, best)
        return (form for form in others if self.fusibility.why_not(number, form) is None)

    def _cheapest(self, number: int, span: Span) -> GroupForm:
        return min(self._known[number][span].items(), key=lambda item: item[1])[0]

    def _is_too_late_for(self, number: int, form: GroupForm) -> bool:
        return self.deadline.is_over and not self.costs.is_known(number, form)
