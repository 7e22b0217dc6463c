"""The best schedule for a depth or for an error.

    1. the table of groups proposes the cheapest schedule of each depth (known_forms);
    2. what is wanted is measured as a whole network, with the refit that was asked for and without;
    3. where that was asked for, so are plans near it (neighbours), the neighbours of the best one first.

Errors of disjoint groups nearly add up, so step 1 is exact where they do; steps 2 and 3 are what counts.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from math import inf, isnan, nan

from parallelize.data import Samples
from parallelize.data.fingerprint import run_identity
from parallelize.machine.ranks import ALONE, Ranks
from parallelize.metrics import Budget, Judge, Metric
from parallelize.metrics.own import code_of
from parallelize.models.effort import Effort, counted_spread
from parallelize.models.network import Network
from parallelize.models.program import Program
from parallelize.planning.costs import GroupCosts
from parallelize.planning.fusibility import Fusibility
from parallelize.planning.known_forms import Deadline, KnownForms, Progress
from parallelize.planning.memory import Memory, open_memory, resumed_memory
from parallelize.planning.neighbours import neighbours
from parallelize.planning.options import PlannerOptions
from parallelize.planning.partition import Partition
from parallelize.planning.search import Candidate, Search
from parallelize.planning.structure import structural_plans
from parallelize.refitting.refit import refit
from parallelize.terminal.progress import Told
from parallelize.terminal.words import counted
from passes.errors import CheckError, ParallelizeError
from passes.plan import Plan, Refit, StackPlan
from passes.stacks.find import find_stacks
from passes.stacks.stack_graph import stack_graph


class Planner:
    """Plans for one model on one split of calibration data."""

    def __init__(
        self,
        program: Program,
        fit: Samples,
        held_out: Samples,
        metric: Metric | str,
        options: PlannerOptions | None = None,
        progress: Progress | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """Measure nothing yet.

        Args:
            program: the captured and cleaned model.
            fit: samples that refits are fitted on.
            held_out: samples that refits and plans are chosen on.
            metric: what is minimised.
            options: how to search.
            progress: told what is measured.
            ranks: the processes that measure; on each the planner is made with the same arguments, but for the memory,
                which is that of rank 0.

        Raises:
            ParallelizeError: a model without stacks, a metric that cannot be measured, a memory of another search, or
                another model or other data than on rank 0.
        """
        self.program, self.fit, self.held_out = program, fit, held_out
        self.options, self.progress, self.ranks = options or PlannerOptions(), progress, ranks
        self.stacks = find_stacks(program.module).stacks
        if not self.stacks:
            raise ParallelizeError(
                "The model has no residual stack, so there is nothing to plan.",
                "See `parallelize inspect MODEL` for the adds that were found.",
            )
        self.graph = stack_graph(self.stacks)
        self.judge = Judge(program.module, held_out, metric)
        self.metric = self.judge.metric
        ranks.require_same(self._identity)
        self.memory = self._opened_memory() if ranks.rank == 0 else Memory()
        self.fusibility = Fusibility(program.module, self.stacks)
        self.costs = GroupCosts(
            program.module,
            self.stacks,
            fit,
            self.judge,
            self.options.refit,
            self.memory.groups,
            self.memory.ahead,
            ranks,
        )
        self.deadline = Deadline(self.options.time_limit)
        self.groups = KnownForms(
            self.graph,
            self.costs,
            self.fusibility,
            self.memory,
            self.options.longest_group,
            self.deadline,
            self._report,
            ranks,
        )
        self.effort = Effort()
        self._measured: dict[int, Candidate] = {}
        self._own: dict[Plan, Candidate] = {}
        self._errors = counted_spread(ranks, "networks", self._measured_error)

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
        least = min(self.depths)
        if depth < least:
            raise ParallelizeError(
                f"No schedule is {counted(depth, 'block')} deep, the shallowest has {least}{self._why_deep()}.",
                f"Ask for --depth {least} or more.",
            )
        return self.search(self.measure(max(there for there in self.depths if there <= depth)))

    def _why_deep(self) -> str:
        """Why groups were left out, in brackets; empty where all fuse."""
        return "".join(f" (groups of {self.stacks[n].name}: {why})" for n, why in self.fusibility.left.items())

    def search(self, chosen: Candidate) -> Search:
        """What was found so far, with what was chosen of it."""
        left = self.fusibility.left.items()
        return Search(
            chosen,
            self.measured(),
            tuple((self.stacks[number].name, why) for number, why in left),
            self.forward_passes,
        )

    @property
    def forward_passes(self) -> float:
        """What was run so far, in forward passes over the samples to fit on and those held out."""
        return self.effort.forward_passes(self.program.module, self.fit, self.held_out)

    def within(self, budget: Budget | float | str) -> Search:
        """The shallowest schedule whose measured error is within the budget, by bisection over the depth.

        The upper end of the error's 95 % interval must be within it too, so that the promise holds on samples that
        were not seen.

        Raises:
            CheckError: no rewrite that was measured is within the budget, the deepest included.
            ParallelizeError: no two neighbouring blocks are alike, so there is no rewrite.
        """
        parsed = Budget.parse(budget)
        depths = [depth for depth in self.depths if depth < self.blocks]
        if not depths:
            raise ParallelizeError(
                "No two neighbouring blocks have terms of the same kinds, so nothing can run side by side.",
                "See `parallelize inspect MODEL` for the blocks and their terms.",
            )
        chosen = self.shallowest(parsed, depths)
        if chosen is None:
            best = min((c for c in self.measured() if c.depth_blocks < self.blocks), key=self._error)
            raise CheckError(
                f"No rewrite is within the {self.metric} budget of {parsed}; the nearest, {best.depth_blocks} blocks"
                f" deep, has {best.scores.error(self.metric):.3g}"
                f" ({best.scores.interval(self.metric)[1]:.3g} at the upper end of its interval).",
                "Raise --max-error, or give more calibration data with --inputs.",
            )
        return self.search(chosen)

    def shallowest(self, budget: Budget, depths: Sequence[int]) -> Candidate | None:
        """Of some depths, in order, the shallowest whose schedule is within a budget, by bisection; None if none is."""
        limit = budget.limit(self.metric, self.judge.serial.value(self.metric))
        low, high = 0, len(depths)
        while low < high:
            middle = (low + high) // 2
            if self._is_within(self.measure(depths[middle]), limit):
                high = middle
            else:
                low = middle + 1
        measured = (self._measured[depth] for depth in depths if depth in self._measured)
        return next((candidate for candidate in measured if self._is_within(candidate, limit)), None)

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
            with self.effort.counting():
                self._measured[depth] = self._refined(self._best_strength(self.proposal(depth), depth))
                self._own = {}
        return self._measured[depth]

    def _refined(self, best: Candidate) -> Candidate:
        """The best of a schedule and plans near it: next is always a neighbour of the best plan that has a new one.

        With several ranks those that are next if none is better are measured at the same time.
        """
        tried, errors = {best.plan: self._error(best)}, self.memory.networks
        for number in range(self.options.refine):
            near = list(itertools.islice(self._near(tried), min(self.ranks.size, self.options.refine - number)))
            if not near or self.deadline.is_over:
                break
            said = f"measuring neighbours {best.depth_blocks} blocks deep, {self.metric} {self._error(best):.4g} so far"
            self._report(said, number, self.options.refine)
            fresh, self._own = near[0], {}
            if fresh.to_json() not in errors:
                new = [plan for plan in near if plan.to_json() not in errors]
                errors.update((plan.to_json(), error) for plan, error in zip(new, self._errors(new), strict=True))
                self.memory.keep(now=True)
            tried[fresh] = errors[fresh.to_json()]
            if tried[fresh] < self._error(best):
                candidate = self._own.get(fresh) or self.candidate(fresh)
                tried[fresh] = errors[fresh.to_json()] = self._error(candidate)
                best = min(best, candidate, key=self._error)
        return best

    def _near(self, tried: Mapping[Plan, float]) -> Iterator[Plan]:
        """The neighbours of plans that were not tried, those of the best plan first."""
        seen = set(tried)
        for known in sorted(tried, key=tried.__getitem__):
            for plan in neighbours(known, self.stacks):
                if plan not in seen:
                    seen.add(plan)
                    yield plan

    def proposal(self, depth: int) -> Plan:
        """The schedule of that depth whose groups cost least, each in its cheapest form.

        Raises:
            ParallelizeError: no partition has that depth.
        """
        if depth not in self.depths:
            raise ParallelizeError(
                f"No schedule is exactly {counted(depth, 'block')} deep.",
                f"There are schedules of {', '.join(map(str, self.depths))} blocks.",
            )
        self.groups.settle(depth)
        return self._plan(depth)

    def draft(self, depth: int) -> Plan:
        """A schedule of a depth that there is, to be timed, not refitted: nothing is measured for it.

        Its groups are as equal as can be, in the forms that fuse into fewest operations.
        """
        return self._drafts.get(depth) or self._plan(depth).with_refit("none")

    @cached_property
    def _drafts(self) -> dict[int, Plan]:
        return structural_plans(self.fusibility, self.graph, self.options.seed)

    def _plan(self, depth: int) -> Plan:
        """The cheapest groups of a depth as far as they are known."""
        parts = (
            StackPlan(len(stack.terms), levels, self.options.refit)
            for stack, levels in zip(self.stacks, self.groups.levels(depth), strict=True)
        )
        return Plan(tuple(parts), self.options.seed)

    def _best_strength(self, plan: Plan, depth: int) -> Candidate:
        """A plan with its refit, or as is, which is better where the refit does not generalise."""
        strengths: tuple[Refit, ...] = ("none",) if self.options.refit == "none" else (self.options.refit, "none")
        plans = [plan.with_refit(strength) for strength in strengths]
        errors, measured = {}, self._errors(plans)
        for number, each in enumerate(plans):
            self._report(f"measuring {counted(depth, 'block')} deep", number, len(plans))
            errors[each] = next(measured)
        best = min(errors, key=errors.__getitem__)
        candidate = self._own.get(best) or self.candidate(best)
        return replace(candidate, predicted=self.partition(depth)[0])

    def _measured_error(self, plan: Plan) -> float:
        """The error of a network, of which nothing more is sent; rank 0 keeps those that it has made itself."""
        candidate = self.candidate(plan)
        if self.ranks.rank == 0:
            self._own[plan] = candidate
        return self._error(candidate)

    def candidate(self, plan: Plan, predicted: float = nan) -> Candidate:
        """Measure any plan, with its refit, as a whole network."""
        refitted = refit(self.program.module, plan, self.fit, self.held_out)
        network = Network.of("rewrite", replace(self.program, module=refitted.module), plan, self.graph)
        return Candidate(network, predicted, self.judge.score(refitted.module), refitted)

    @property
    def depths(self) -> list[int]:
        """The depths that schedules have, in blocks, the shallowest first."""
        return self.groups.depths

    def partition(self, depth: int) -> Partition:
        """The smallest sum of group costs of a depth, and the groups of each stack; measures what that takes."""
        self.groups.settle(depth)
        return self.groups.partitions[depth]

    def _opened_memory(self) -> Memory:
        if self.options.memory is None and self.options.resume is not None:
            return resumed_memory(
                self.options.resume, self._identity(), lambda line: self._report(Told(line), done=0, total=0)
            )
        return open_memory(self.options.memory, "" if self.options.memory is None else self._identity())

    def _identity(self) -> str:
        """Of the search: of its model, data and options."""
        options = json.dumps([str(self.metric), code_of(self.metric), self.options.refit, self.options.seed])
        return run_identity(self.program.module, (self.fit, self.held_out), options)

    def _report(self, what: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(what, done, total)
