"""The best schedule for a depth or for an error.

    1. the main form of every group of neighbouring blocks is measured alone (costs); a form in which the group does not
       fuse is as deep as serial and left out (fusibility);
    2. dynamic programming splits the blocks of each stack into D groups, for every D at once (partition), and shares
       every depth of the whole among the stacks (shared_depth);
    3. for a wanted depth, the other forms of the groups that come out are measured too, and 2 is repeated until nothing
       changes;
    4. what comes out is measured as a whole network, with the refit that was asked for and without;
    5. where that was asked for, so are plans near it (neighbours), the neighbours of the best one first.

Errors of disjoint groups nearly add up, so step 2 is exact where they do; steps 4 and 5 are what counts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from math import inf, isnan, nan

from torch import fx

from parallelize.data import Samples
from parallelize.data.fingerprint import run_identity
from parallelize.metrics import Budget, Judge, Metric
from parallelize.planning.costs import GroupCosts
from parallelize.planning.forms import GroupForm, Span, alike, deletion, forms, main_form, other_forms
from parallelize.planning.fusibility import Fusibility
from parallelize.planning.memory import open_memory
from parallelize.planning.neighbours import neighbours
from parallelize.planning.options import PlannerOptions
from parallelize.planning.partition import Groups, best_partitions
from parallelize.planning.search import Candidate, Search
from parallelize.planning.shared_depth import share_depth
from parallelize.refitting.refit import refit
from parallelize.terminal.words import counted
from passes.errors import CheckError, ParallelizeError
from passes.plan import Plan, Refit, StackPlan
from passes.stacks.find import find_stacks
from passes.stacks.stack_graph import stack_graph

Progress = Callable[[str, int, int], None]  # what is measured, done, in all
LONG_STACK = 16  # blocks from which on groups are limited
LONGEST_GROUP = 4  # of a long stack, in blocks
ROUNDS = 8  # of step 3 at most
Known = dict[Span, dict[GroupForm, float]]  # costs of the forms of the groups of one stack


class Planner:
    """Plans for one model on one split of calibration data."""

    def __init__(
        self,
        teacher: fx.GraphModule,
        fit: Samples,
        held_out: Samples,
        metric: Metric | str,
        options: PlannerOptions | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Measure nothing yet.

        Args:
            teacher: the captured and cleaned model.
            fit: samples that refits are fitted on.
            held_out: samples that refits and plans are chosen on.
            metric: what is minimised.
            options: how to search.
            progress: told what is measured.

        Raises:
            ParallelizeError: a model without stacks, a metric that cannot be measured, or a memory of another search.
        """
        self.teacher, self.fit, self.held_out = teacher, fit, held_out
        self.options, self.progress = options or PlannerOptions(), progress
        self.stacks = find_stacks(teacher).stacks
        if not self.stacks:
            raise ParallelizeError(
                "The model has no residual stack, so there is nothing to plan.",
                "See `parallelize inspect MODEL` for the adds that were found.",
            )
        self.graph = stack_graph(self.stacks)
        self.judge = Judge(teacher, held_out, metric)
        self.metric = self.judge.metric
        self.memory = open_memory(self.options.memory, self._identity())
        self.costs = GroupCosts(teacher, self.stacks, fit, self.judge, self.options.refit, self.memory.groups)
        self.fusibility = Fusibility(teacher, self.stacks)
        self._forms: list[Known] | None = None
        self._partitions: dict[int, tuple[float, tuple[Groups, ...]]] | None = None
        self._measured: dict[int, Candidate] = {}
        self._end = None if self.options.time_limit is None else time.monotonic() + self.options.time_limit

    @property
    def blocks(self) -> int:
        """Blocks on the longest path through the network as it was captured."""
        return self.graph.serial_blocks

    # choosing ---------------------------------------------------------------------------------------------------------

    def at_depth(self, depth: int) -> Search:
        """The best schedule of at most `depth` blocks.

        Raises:
            ParallelizeError: fewer blocks than stacks that wait for each other, or less than one.
        """
        least = min(self.partitions())
        if depth < least:
            raise ParallelizeError(
                f"No schedule is {counted(depth, 'block')} deep, the shallowest has {least}{self._why_deep()}.",
                f"Ask for --depth {least} or more{', or give more time' if self._is_late() else ''}.",
            )
        return self._search(self.measure(max(d for d in self.partitions() if d <= depth)))

    def _why_deep(self) -> str:
        """Why groups were left out, in brackets; empty where all fuse."""
        return "".join(f" (groups of {self.stacks[n].name}: {why})" for n, why in self.fusibility.left.items())

    def _search(self, chosen: Candidate) -> Search:
        left = self.fusibility.left.items()
        return Search(chosen, self.measured(), tuple((self.stacks[number].name, why) for number, why in left))

    def within(self, budget: Budget | float | str) -> Search:
        """The shallowest schedule whose measured error is within the budget, by bisection over the depth.

        The upper end of the error's 95 % interval must be within it too, so that the promise holds on samples that
        were not seen.

        Raises:
            CheckError: no rewrite that was measured is within the budget, the deepest included.
            ParallelizeError: no two neighbouring blocks are alike, so there is no rewrite.
        """
        parsed = Budget.parse(budget)
        limit = parsed.limit(self.metric, self.judge.serial.value(self.metric))
        depths = sorted(depth for depth in self.partitions() if depth < self.blocks)
        if not depths:
            raise ParallelizeError(
                "No two neighbouring blocks have terms of the same kinds, so nothing can run side by side.",
                "See `parallelize inspect MODEL` for the blocks and their terms.",
            )
        low, high = 0, len(depths)
        while low < high:
            middle = (low + high) // 2
            if self._is_within(self.measure(depths[middle]), limit):
                high = middle
            else:
                low = middle + 1
        rewrites = [c for c in self.measured() if c.depth_blocks < self.blocks]
        within = [c for c in rewrites if self._is_within(c, limit)]
        if not within:
            best = min(rewrites, key=self._error)
            raise CheckError(
                f"No rewrite is within the {self.metric} budget of {parsed}; the nearest, {best.depth_blocks} blocks"
                f" deep, has {best.scores.error(self.metric):.3g}"
                f" ({best.scores.interval(self.metric)[1]:.3g} at the upper end of its interval).",
                "Raise --max-error, or give more calibration data with --inputs.",
            )
        return self._search(min(within, key=lambda c: c.depth_blocks))

    def _is_within(self, candidate: Candidate, limit: float) -> bool:
        return self._error(candidate) <= limit and candidate.scores.interval(self.metric)[1] <= limit

    def _error(self, candidate: Candidate) -> float:
        """The measured error; outputs of NaN are worse than any others."""
        error = candidate.scores.error(self.metric)
        return inf if isnan(error) else error

    def measured(self) -> tuple[Candidate, ...]:
        """What was measured as a whole network, deepest first."""
        return tuple(sorted(self._measured.values(), key=lambda c: -c.depth_blocks))

    # whole networks ---------------------------------------------------------------------------------------------------

    def measure(self, depth: int) -> Candidate:
        """Measure the best partition of that depth as a whole network, and as many neighbours as were asked for.

        Raises:
            ParallelizeError: no partition has that depth.
        """
        if depth not in self._measured:
            found = list(self._candidates(self.proposal(depth), depth))
            self._measured[depth] = self._refined(min(found, key=self._error))
        return self._measured[depth]

    def _refined(self, best: Candidate) -> Candidate:
        """The best of a schedule and plans near it: next is always a neighbour of the best plan that has a new one."""
        tried = {best.plan: self._error(best)}
        for number in range(self.options.refine):
            ranked = sorted(tried, key=tried.__getitem__)
            near = (plan for known in ranked for plan in neighbours(known, self.stacks) if plan not in tried)
            fresh = next(near, None)
            if fresh is None or self._is_late():
                break
            said = f"measuring neighbours {best.depth_blocks} blocks deep, {self.metric} {self._error(best):.4g} so far"
            self._report(said, number, self.options.refine)
            name = fresh.to_json()
            tried[fresh] = self.memory.networks.get(name, -inf)
            if tried[fresh] < self._error(best):
                candidate = self.candidate(fresh, best.depth_blocks)
                tried[fresh] = self.memory.networks[name] = self._error(candidate)
                self.memory.keep(now=True)
                best = min(best, candidate, key=self._error)
        return best

    def proposal(self, depth: int) -> Plan:
        """The schedule of that depth whose groups cost least, each in its cheapest form.

        Raises:
            ParallelizeError: no partition has that depth.
        """
        if depth not in self.partitions():
            raise ParallelizeError(
                f"No schedule is exactly {counted(depth, 'block')} deep.",
                f"There are schedules of {', '.join(map(str, sorted(self.partitions())))} blocks.",
            )
        for number in range(ROUNDS):
            if not self._measure_other_forms(depth, number):
                break
        groups = self.partitions()[depth][1]
        parts = []
        for number, (stack, spans) in enumerate(zip(self.stacks, groups, strict=True)):
            levels = [level for span in spans for level in self._cheapest(number, span).levels]
            parts.append(StackPlan(len(stack.terms), tuple(levels), self.options.refit))
        return Plan(tuple(parts), self.options.seed)

    def _candidates(self, plan: Plan, depth: int) -> Iterator[Candidate]:
        """A plan with its refit, and as is, which is better where the refit does not generalise."""
        strengths: tuple[Refit, ...] = ("none",) if self.options.refit == "none" else (self.options.refit, "none")
        for number, strength in enumerate(strengths):
            self._report(f"measuring {counted(depth, 'block')} deep", number, len(strengths))
            yield self.candidate(plan.with_refit(strength), depth, self.partitions()[depth][0])

    def candidate(self, plan: Plan, depth: int, predicted: float = nan) -> Candidate:
        """Measure any plan, with its refit, as a whole network."""
        refitted = refit(self.teacher, plan, self.fit, self.held_out)
        return Candidate(plan, depth, predicted, self.judge.score(refitted.module), refitted)

    # groups -----------------------------------------------------------------------------------------------------------

    def partitions(self) -> dict[int, tuple[float, tuple[Groups, ...]]]:
        """For each depth the smallest sum of group costs that is known, and the groups of each stack."""
        if self._forms is None:
            self._forms = self._measure_main_forms()
        if self._partitions is None:
            self._partitions = self._split()
        return self._partitions

    def _split(self) -> dict[int, tuple[float, tuple[Groups, ...]]]:
        assert self._forms is not None
        costs = [{span: min(forms.values()) for span, forms in stack.items()} for stack in self._forms]
        pairs = zip(self.stacks, costs, strict=True)
        options = [best_partitions(len(stack.blocks), of_stack) for stack, of_stack in pairs]
        return share_depth(self.graph.order, options)

    def _measure_main_forms(self) -> list[Known]:
        """Measure all groups in their main form; those that the time is too short for are left out, all but the first.

        Where time is limited the short groups of all stacks come first.
        """
        known: list[Known] = [{} for _ in self.stacks]
        spans = [(number, *span) for number in range(len(self.stacks)) for span in self._spans(number)]
        if self._end is not None:
            spans.sort(key=lambda span: span[2] - span[1])
        has_group = False
        for done, (number, first, last) in enumerate(spans):
            form = self._main(number, first, last)
            if has_group and self._is_late() and not self.costs.is_known(number, form):
                continue
            known[number][first, last] = {form: self.costs.cost(number, form)}
            has_group |= first < last
            self.memory.keep()
            self._report("measuring groups", done + 1, len(spans))
        self.memory.keep(now=True)
        return known

    def _main(self, number: int, first: int, last: int) -> GroupForm:
        """The form in which a group is measured first: one that fuses, or else deletion, which needs no fusion."""
        stack = self.stacks[number]
        options = (main_form(stack, first, last), *forms(stack, first, last))
        fitting = (form for form in options if self.fusibility.why_not(number, form) is None)
        return next(fitting, None) or deletion(stack, first, last, first)

    def _spans(self, number: int) -> list[Span]:
        """Groups of one stack by their first block, before which samples start; of a long stack only short ones."""
        stack = self.stacks[number]
        count = len(stack.blocks)
        longest = self.options.longest_group or (count if count <= LONG_STACK else LONGEST_GROUP)
        spans = [(i, j) for i in range(count) for j in range(i, min(count, i + longest))]
        return [(i, j) for i, j in spans if i == j or alike(stack, i, j)]

    def _measure_other_forms(self, depth: int, round_number: int) -> bool:
        """Measure what is new of the forms of the groups at a depth; whether there was anything.

        Forms that the time is too short for are left out.
        """
        spans = [(n, span) for n, chosen in enumerate(self.partitions()[depth][1]) for span in chosen]
        assert self._forms is not None
        known = self._forms
        wanted = [(number, form) for number, span in spans for form in self._others(number, span)]
        wanted = [(number, form) for number, form in wanted if form not in known[number][form.span]]
        is_new = False
        for done, (number, form) in enumerate(wanted):
            if self._is_late() and not self.costs.is_known(number, form):
                continue
            known[number][form.span][form] = self.costs.cost(number, form)
            self._partitions, is_new = None, True
            self.memory.keep()
            self._report(f"measuring forms of groups, round {round_number + 1}", done + 1, len(wanted))
        if is_new:
            self.memory.keep(now=True)
        return is_new

    def _others(self, number: int, span: Span) -> Iterator[GroupForm]:
        """The forms to try for a group, given what is known of it."""
        assert self._forms is not None
        cuts = {form: cost for form, cost in self._forms[number][span].items() if form.cut is not None}
        best = min(cuts, key=cuts.__getitem__).cut if cuts else None
        others = other_forms(self.stacks[number], *span, best)
        return (form for form in others if self.fusibility.why_not(number, form) is None)

    def _cheapest(self, number: int, span: Span) -> GroupForm:
        assert self._forms is not None
        return min(self._forms[number][span].items(), key=lambda item: item[1])[0]

    def _is_late(self) -> bool:
        return self._end is not None and time.monotonic() > self._end

    def _identity(self) -> str:
        if self.options.memory is None:
            return ""
        options = json.dumps([str(self.metric), self.options.refit, self.options.seed])
        return run_identity(self.teacher, (self.fit, self.held_out), options)

    def _report(self, what: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(what, done, total)
