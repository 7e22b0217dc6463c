"""What is known of the groups of neighbouring blocks: the costs of their forms, and the partitions that follow.

1. dynamic programming splits the blocks of each stack into D groups, for every D at once (partition), and shares every
depth of the whole among the stacks (shared_depth); a group that was not measured costs the least that it can (bounds);
2. the groups of the partition of a wanted depth that were not measured are, in their main form (costs); a form in which
a group does not fuse is as deep as serial and left out (fusibility). 1 and 2 are repeated until all are measured:
no other partition can cost less then, so most groups never are;
3. the other forms of the groups that come out are measured too, and all is repeated until nothing changes.

With several ranks each measures a group at the same time. The groups of step 2 are asked for one after another, and
which is next depends on the costs before it; it is foreseen by taking each of these as too dear. What was
measured ahead is not known here before it is asked for (costs), so the same groups are asked for in the same order, and
the same partitions and forms come out, however many ranks there are and however wrong was what they foresaw: that costs
time alone.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import cached_property
from math import inf

from parallelize.machine.ranks import ALONE, Ranks
from parallelize.planning.bounds import least_costs
from parallelize.planning.costs import GroupCosts
from parallelize.planning.forms import GroupForm, Span, alike, deletion, forms, main_form, other_forms
from parallelize.planning.fusibility import Fusibility
from parallelize.planning.memory import Memory
from parallelize.planning.partition import Partition, shared_partitions
from passes.plan import Level
from passes.stacks.stack_graph import StackGraph

Group = tuple[int, Span]  # the number of its stack, and its blocks
Progress = Callable[[str, int, int], None]  # what is measured, done, in all
UNKNOWN = 1e-6  # of the least cost that is known, what a group of two blocks costs more than its bound
TOO_DEAR = 1e9  # a cost for which no group is taken that can be left, foreseen of those that are not measured yet
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
        ranks: Ranks = ALONE,
    ) -> None:
        self.ranks = ranks
        self.graph, self.costs, self.fusibility, self.memory = graph, costs, fusibility, memory
        self.longest, self.deadline, self.report = longest, deadline, report
        self._partitions: dict[int, Partition] | None = None

    @cached_property
    def depths(self) -> list[int]:
        """The depths of the whole that partitions have, in blocks, the shallowest first."""
        free = [dict.fromkeys(mains, 0.0) for mains in self._mains]
        return sorted(shared_partitions(self.graph, free))

    @property
    def partitions(self) -> dict[int, Partition]:
        """For each depth the smallest sum of group costs that is known or bounded, and the groups of each stack."""
        if self._partitions is None:
            self._partitions = self._solved(self._least_known())
        return self._partitions

    def settle(self, depth: int) -> None:
        """Measure the groups at a depth, and their other forms, until the groups stay as they are."""
        self.memory.keep()  # what cannot be kept is refused before anything is measured
        for number in range(ROUNDS):
            self._measure_groups(depth)
            if not self._measure_other_forms(depth, number):
                return

    def levels(self, depth: int) -> tuple[tuple[Level, ...], ...]:
        """The levels of each stack at a depth, each group in its cheapest form."""
        return tuple(
            tuple(level for span in spans for level in self._cheapest(number, span).levels)
            for number, spans in enumerate(self.partitions[depth][1])
        )

    @cached_property
    def _mains(self) -> list[dict[Span, GroupForm]]:
        """For each stack the groups that there may be, each in the form in which it is measured first."""
        return [
            {span: self._main(number, *span) for span in self._spans(number)}
            for number in range(len(self.graph.stacks))
        ]

    @cached_property
    def _known(self) -> list[dict[Span, dict[GroupForm, float]]]:
        """For each stack the costs of the forms of its groups: of single blocks, and what an earlier run measured."""
        return [
            {
                span: {form: self.costs.cost(number, form)}
                for span, form in mains.items()
                if self.costs.is_known(number, form)
            }
            for number, mains in enumerate(self._mains)
        ]

    def _least_known(self) -> list[dict[Span, float]]:
        """For each stack the cost of the cheapest form of the groups that were measured."""
        return [{span: min(costs.values()) for span, costs in known.items()} for known in self._known]

    def _solved(self, known: Sequence[Mapping[Span, float]]) -> dict[int, Partition]:
        """For each depth the cheapest groups, where so much is known of each stack."""
        return shared_partitions(self.graph, [self._costs(number, each) for number, each in enumerate(known)])

    def _costs(self, number: int, known: Mapping[Span, float]) -> dict[Span, float]:
        """The costs of the groups of one stack, those that were not measured by their bounds.

        Of groups that nothing is known of those that are as equal as can be are taken, as without data.
        """
        count = len(self.graph.stacks[number].blocks)
        least = least_costs(count, known, self._longest(count))
        unit = UNKNOWN * min((cost for cost in known.values() if 0 < cost < inf), default=1.0)
        return {
            span: known[span]
            if span in known
            else least[span] + unit * (span[1] - span[0]) * (span[1] - span[0] + 1) / 2
            for span in self._mains[number]
        }

    def _measure_groups(self, depth: int) -> None:
        """Measure groups until those of the cheapest partition of a depth are known, or the time is up.

        The largest group is measured first: most often it is the one that costs too much.
        """
        done = 0
        while not self.deadline.is_over:
            unknown = _unknown(self.partitions[depth], self._known)
            if not unknown:
                break
            number, span = unknown[0]
            form = self._mains[number][span]
            if not self.costs.is_there(number, form):
                self._look_ahead(depth)
            self._known[number][span] = {form: self.costs.cost(number, form)}
            self._partitions, done = None, done + 1
            self.memory.keep()
            self.report(f"measuring groups, {done} so far", done, 0)
        if done:
            self.memory.keep(now=True)

    def _look_ahead(self, depth: int) -> None:
        """Measure the next group of the cheapest partition and, on other ranks, those that may come after it."""
        groups = dict.fromkeys([*self._foreseen(depth), *_unknown(self.partitions[depth], self._known)])
        next_ones = itertools.islice(groups, self.ranks.size)
        for _ in self.costs.look_ahead([(number, self._mains[number][span]) for number, span in next_ones]):
            self.memory.keep()

    def _foreseen(self, depth: int) -> Iterator[Group]:
        """The next groups to measure, one for each rank, if each costs too much to stay in the cheapest partition."""
        known, partitions = self._least_known(), self.partitions
        for _ in range(self.ranks.size):
            unknown = _unknown(partitions[depth], known)
            if not unknown:
                return
            number, span = unknown[0]
            yield number, span
            known[number][span] = TOO_DEAR
            partitions = self._solved(known) if self.ranks.size > 1 else partitions

    def _main(self, number: int, first: int, last: int) -> GroupForm:
        """The form in which a group is measured first: one that fuses, or else deletion, which needs no fusion."""
        stack = self.graph.stacks[number]
        options = (main_form(stack, first, last), *forms(stack, first, last))
        fitting = (form for form in options if self.fusibility.why_not(number, form) is None)
        return next(fitting, None) or deletion(stack, first, last, first)

    def _spans(self, number: int) -> list[Span]:
        """The groups of one stack that may be made; of a long stack only short ones."""
        stack = self.graph.stacks[number]
        count = len(stack.blocks)
        spans = [(i, j) for i in range(count) for j in range(i, min(count, i + self._longest(count)))]
        return [(i, j) for i, j in spans if i == j or alike(stack, i, j)]

    def _longest(self, count: int) -> int:
        """Blocks of a group at most, in a stack of so many."""
        return self.longest or (count if count <= LONG_STACK else LONGEST_GROUP)

    def _measure_other_forms(self, depth: int, round_number: int) -> bool:
        """Measure what is new of the forms of the groups at a depth; whether there was anything.

        Forms that the time is too short for are left out.
        """
        spans = [(n, span) for n, chosen in enumerate(self.partitions[depth][1]) for span in chosen]
        wanted = [(number, form) for number, span in spans for form in self._others(number, span)]
        wanted = [(number, form) for number, form in wanted if form not in self._known[number].get(form.span, {})]
        is_new = False
        ahead = self.costs.look_ahead(wanted)
        for done, (number, form) in enumerate(wanted):
            if self._is_too_late_for(number, form):
                ahead.close()
                continue
            while not self.costs.is_there(number, form):
                next(ahead)
            self._known[number].setdefault(form.span, {})[form] = self.costs.cost(number, form)
            self._partitions, is_new = None, True
            self.memory.keep()
            self.report(f"measuring forms of groups, round {round_number + 1}", done + 1, len(wanted))
        if is_new:
            self.memory.keep(now=True)
        return is_new

    def _others(self, number: int, span: Span) -> Iterator[GroupForm]:
        """The forms to try for a group, given what is known of it."""
        known = self._known[number].get(span, {})
        cuts = {form: cost for form, cost in known.items() if form.cut is not None}
        best = min(cuts, key=cuts.__getitem__).cut if cuts else None
        others = other_forms(self.graph.stacks[number], *span, best)
        return (form for form in others if self.fusibility.why_not(number, form) is None)

    def _cheapest(self, number: int, span: Span) -> GroupForm:
        known = self._known[number].get(span)
        return self._mains[number][span] if known is None else min(known, key=known.__getitem__)

    def _is_too_late_for(self, number: int, form: GroupForm) -> bool:
        return self.deadline.is_over and not self.costs.is_there(number, form)


def _unknown(partition: Partition, known: Sequence[Container[Span]]) -> list[Group]:
    """The groups of a partition that were not measured, the largest first."""
    groups = [(number, span) for number, spans in enumerate(partition[1]) for span in spans]
    unknown = [(number, span) for number, span in groups if span not in known[number]]
    return sorted(unknown, key=lambda group: group[1][0] - group[1][1])
