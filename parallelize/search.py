"""Search for a schedule: measure every group of blocks alone, then combine groups by dynamic programming.

The cost of running blocks i..j side by side is measured with everything else serial and an affine refit of the group:
the error of the model's outputs on held-out samples. Errors of disjoint groups nearly add up, so the best partition of
the blocks into D groups is an interval problem, solved exactly for every D at once.

A group of attention-MLP blocks is as deep as one block in two forms, and the partition is tried in both:

    sublayer form    {a1..an} then {m1..mn}
    GPT-J form       {a1, m1 .. ac, mc} then {ac+1, mc+1 .. an, mn}, cut where the group's cost is least

What comes out is measured as a whole network with the refit that was asked for; the sum of costs only proposes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from parallelize.inputs import Samples
from parallelize.metrics import Metric, Scores, predict, score
from parallelize.refit import Batch, Refitted, StackWalk, placeholders, refit, run_segment, start_batches
from passes.apply_plan import schedule
from passes.errors import CheckError, ParallelizeError
from passes.infra import clone, flat_leaves
from passes.plan import Level, Plan, Refit, StackPlan, grouped
from passes.segment import extract
from passes.stacks import Stack, find_stacks

Groups = tuple[tuple[int, int], ...]  # first and last block of each group
Progress = Callable[[str, int, int], None]  # what is measured, done, in all
SEARCH_SAMPLES = 256


@dataclass(frozen=True)
class Candidate:
    """A plan that was measured as a whole network on held-out samples.

    Attributes:
        depth: blocks on the critical path.
        predicted: sum of the groups' costs.
        scores: measured with the refit of the plan.
        refitted: the network that was measured.
    """

    plan: Plan
    depth: int
    predicted: float
    scores: Scores
    refitted: Refitted


@dataclass(frozen=True)
class Search:
    """What was found: the chosen plan and all that were measured, deepest first."""

    chosen: Candidate
    measured: tuple[Candidate, ...]


class Searcher:
    """Searches schedules of one model on one split of calibration data."""

    def __init__(
        self,
        teacher: fx.GraphModule,
        fit: Samples,
        held_out: Samples,
        metric: Metric,
        refit_strength: Refit,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> None:
        self.teacher, self.fit, self.held_out, self.metric = teacher, fit, held_out, metric
        self.strength, self.seed, self.progress = refit_strength, seed, progress
        self.stacks = find_stacks(teacher).stacks
        self.expected = predict(teacher, held_out)
        self._partitions: dict[int, tuple[float, tuple[Groups, ...]]] | None = None
        self._measured: dict[int, Candidate] = {}

    @property
    def blocks(self) -> int:
        """Blocks of the serial network."""
        return sum(len(stack.blocks) for stack in self.stacks)

    def at_depth(self, depth: int) -> Search:
        """The best schedule of at most `depth` blocks.

        Raises:
            ParallelizeError: fewer blocks than the model has stacks, or less than one.
        """
        least = min(self.partitions())
        if depth < least:
            raise ParallelizeError(
                f"No schedule is {depth} blocks deep, the shallowest has {least}.", f"Ask for --depth {least} or more."
            )
        chosen = self.measure(max(d for d in self.partitions() if d <= depth))
        return Search(chosen, self._all())

    def within(self, max_error: float) -> Search:
        """The shallowest schedule whose measured error is at most `max_error`, by bisection over the depth.

        Raises:
            CheckError: not even the deepest rewrite is within the budget.
            ParallelizeError: no two neighbouring blocks are alike, so there is no rewrite.
        """
        depths = sorted(d for d in self.partitions() if d < self.blocks)
        if not depths:
            raise ParallelizeError(
                "No two neighbouring blocks have terms of the same kinds, so nothing can run side by side.",
                "See `parallelize inspect MODEL` for the blocks and their terms.",
            )
        low, high = 0, len(depths)
        while low < high:
            middle = (low + high) // 2
            if self.measure(depths[middle]).scores.error(self.metric) <= max_error:
                high = middle
            else:
                low = middle + 1
        rewrites = [c for c in self._all() if c.depth < self.blocks]
        within = [c for c in rewrites if c.scores.error(self.metric) <= max_error]
        if not within:
            best = min(rewrites, key=lambda c: c.scores.error(self.metric))
            raise CheckError(
                f"No rewrite is within the {self.metric} budget of {max_error:g}; the nearest,"
                f" {best.depth} blocks deep, has {best.scores.error(self.metric):.3g}.",
                "Raise --max-error, or give more calibration data with --inputs.",
            )
        return Search(min(within, key=lambda c: c.depth), self._all())

    def measure(self, depth: int) -> Candidate:
        """Measure the best partition of that depth as a whole network."""
        if depth in self._measured:
            return self._measured[depth]
        plans = self.proposals(depth)
        found: list[Candidate] = []
        for number, plan in enumerate(plans):
            self._report(f"measuring {depth} blocks deep", number, len(plans))
            found.extend(self._candidates(plan, depth))
        self._measured[depth] = min(found, key=lambda candidate: candidate.scores.error(self.metric))
        return self._measured[depth]

    def proposals(self, depth: int) -> list[Plan]:
        """The best partition of that depth in sublayer form, and with the best GPT-J form of its groups if any."""
        groups = self.partitions()[depth][1]
        cuts = [self._cuts(stack, chosen) for stack, chosen in zip(self.stacks, groups, strict=True)]
        plans = [self._plan(groups, [{} for _ in cuts])]
        return [*plans, self._plan(groups, cuts)] if any(cuts) else plans

    def _candidates(self, plan: Plan, depth: int) -> Iterator[Candidate]:
        """A plan as measured with its refit, and as is, which is better where the refit does not generalise."""
        strengths: tuple[Refit, ...] = ("none",) if self.strength == "none" else (self.strength, "none")
        for strength in strengths:
            chosen = plan.with_refit(strength)
            refitted = refit(self.teacher, chosen, self.fit, self.held_out)
            scores = self._score(predict(refitted.module, self.held_out))
            yield Candidate(chosen, depth, self.partitions()[depth][0], scores, refitted)

    def _plan(self, groups: Sequence[Groups], cuts: Sequence[Mapping[tuple[int, int], int]]) -> Plan:
        """A plan from groups of blocks; those in `cuts` are in GPT-J form, the others in sublayer form."""
        parts = []
        for stack, chosen, cut in zip(self.stacks, groups, cuts, strict=True):
            levels = [level for first, last in chosen for level in _levels(stack, first, last, cut.get((first, last)))]
            parts.append(StackPlan(len(stack.terms), tuple(levels), self.strength))
        return Plan(tuple(parts), self.seed)

    def _cuts(self, stack: Stack, groups: Groups) -> dict[tuple[int, int], int]:
        """For each group of two-term blocks the cut of its GPT-J form, where that costs less than the sublayer form."""
        found = {}
        for first, last in groups if stack.period == 2 else ():
            if first == last:
                continue
            parts = self._parts(stack, first)
            costs = {cut: self._group_cost(stack, first, last, parts, cut) for cut in range(first + 1, last + 1)}
            best = min(costs, key=costs.__getitem__)
            if costs[best] < self._group_cost(stack, first, last, parts):
                found[first, last] = best
        return found

    def partitions(self) -> dict[int, tuple[float, tuple[Groups, ...]]]:
        """For each depth the smallest sum of group costs and the groups, one tuple for each stack."""
        if self._partitions is None:
            total: dict[int, tuple[float, tuple[Groups, ...]]] = {0: (0.0, ())}
            for stack in self.stacks:
                total = _combine(total, best_partitions(len(stack.blocks), self._costs(stack)))
            self._partitions = total
        return self._partitions

    def _costs(self, stack: Stack) -> dict[tuple[int, int], float]:
        """The measured cost of every group of neighbouring blocks; single blocks cost nothing."""
        count = len(stack.blocks)
        costs = {(block, block): 0.0 for block in range(count)}
        pairs = [(i, j) for i in range(count) for j in range(i + 1, count) if _alike(stack, i, j)]
        for done, (first, last) in enumerate(pairs):
            if first != (pairs[done - 1][0] if done else -1):
                parts = self._parts(stack, first)
            costs[first, last] = self._group_cost(stack, first, last, parts)
            self._report("measuring groups", done + 1, len(pairs))
        return costs

    def _parts(self, stack: Stack, first: int) -> tuple[list[Batch], list[Batch]]:
        state = stack.terms[stack.blocks[first][0]].skip
        fit = start_batches(self.teacher, state, self.fit.head(SEARCH_SAMPLES))
        return fit, start_batches(self.teacher, state, self.held_out.head(SEARCH_SAMPLES))

    def _group_cost(
        self, stack: Stack, first: int, last: int, parts: tuple[list[Batch], list[Batch]], cut: int | None = None
    ) -> float:
        """Error on held-out samples when only blocks first..last run side by side, with an affine refit."""
        strength: Refit = "none" if self.strength == "none" else "affine"
        alone = [_levels(stack, block, block) for block in range(len(stack.blocks))]
        levels = [*alone[:first], _levels(stack, first, last, cut), *alone[last + 1 :]]
        part = StackPlan(len(stack.terms), tuple(level for group in levels for level in group), strength)
        serial = [grouped(len(s.terms), [[block] for block in s.blocks]) for s in self.stacks]
        stacks = tuple(part if s is stack else other for s, other in zip(self.stacks, serial, strict=True))
        module = clone(self.teacher)
        site = schedule(module, Plan(stacks))[self.stacks.index(stack)]
        begin = sum(len(stack.blocks[b]) for b in range(first))
        copies = ([replace(b) for b in parts[0]], [replace(b) for b in parts[1]])
        walk = StackWalk(self.teacher, stack, module, site, part, copies, begin)
        for level in range(begin, begin + len(levels[first])):
            walk.refit_level(level)
        return self._error_after(module, walk.entry, copies[1])

    def _error_after(self, module: fx.GraphModule, state: fx.Node, batches: Sequence[Batch]) -> float:
        """Run the rest of the network from a state and compare the outputs with the teacher's."""
        rest = extract(module, [*placeholders(module), state], flat_leaves(module))
        outputs = [run_segment(rest, (*batch.inputs, batch.state)) for batch in batches]
        return self._score(_concatenate(outputs)).error(self.metric)

    def _score(self, outputs: list[Tensor]) -> Scores:
        count = len(outputs[0])
        labels = None if self.held_out.labels is None else self.held_out.labels[:count]
        return score(outputs, [e[:count] for e in self.expected], labels)

    def _all(self) -> tuple[Candidate, ...]:
        return tuple(sorted(self._measured.values(), key=lambda c: -c.depth))

    def _report(self, what: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(what, done, total)


def _concatenate(batches: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.cat(parts) for parts in zip(*batches, strict=True)]


def _levels(stack: Stack, first: int, last: int, cut: int | None = None) -> tuple[Level, ...]:
    """Blocks first..last as deep as one: in sublayer form, or in GPT-J form with the second level from block `cut`."""
    blocks = stack.blocks[first : last + 1]
    if cut is None:
        return grouped(len(stack.terms), [blocks]).levels
    runs = (blocks[: cut - first], blocks[cut - first :])
    return tuple(Level(tuple((term,) for block in run for term in block)) for run in runs)


def _alike(stack: Stack, first: int, last: int) -> bool:
    """Whether all blocks of a group have terms of the same kinds."""
    kinds = [[stack.terms[t].kind for t in stack.blocks[b]] for b in range(first, last + 1)]
    return all(k == kinds[0] for k in kinds)


def best_partitions(count: int, costs: dict[tuple[int, int], float]) -> dict[int, tuple[float, Groups]]:
    """The cheapest split of blocks 0..count-1 into D intervals, for every D that has one.

    Interval dynamic programming: best[j][D] = min over i of best[i][D-1] + cost(i..j-1).
    """
    best: list[dict[int, tuple[float, Groups]]] = [{0: (0.0, ())}]
    for stop in range(1, count + 1):
        row: dict[int, tuple[float, Groups]] = {}
        for start in range(stop):
            cost = costs.get((start, stop - 1))
            if cost is None:
                continue
            for depth, (before, groups) in best[start].items():
                total = before + cost
                if depth + 1 not in row or total < row[depth + 1][0]:
                    row[depth + 1] = (total, (*groups, (start, stop - 1)))
        best.append(row)
    return best[count]


def _combine(
    left: dict[int, tuple[float, tuple[Groups, ...]]], right: dict[int, tuple[float, Groups]]
) -> dict[int, tuple[float, tuple[Groups, ...]]]:
    """Share a depth among stacks: the cheapest sum for every total depth."""
    total: dict[int, tuple[float, tuple[Groups, ...]]] = {}
    for a, (cost_a, groups_a) in left.items():
        for b, (cost_b, groups_b) in right.items():
            if a + b not in total or cost_a + cost_b < total[a + b][0]:
                total[a + b] = (cost_a + cost_b, (*groups_a, groups_b))
    return total
