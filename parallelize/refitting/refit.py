"""Closed-form refit: keep what a rewritten network computes, solve for how it is read and how it is added up.

A trained network is a sum of terms alpha_j sigma(W_j h_j + b_j). Terms that no longer read each other still make useful
features. Two things are wrong, and both are mended by ridge regression, level by level along the *rewritten* network:

    read-in    a term reads h = norm(x) of an earlier state than in training. h + A h + b foretells what it read there;
               A and b become part of the inner weights (passes.in_projection).
    read-out   the outer coefficients alpha of the level, and an affine function of norm(x), are solved for again so
               that the level comes to the teacher's state (passes.out_projection).

No gradient, no new kernel: the read-in is inside the weights, and after width fusion the affine part is d more columns
of an out-projection that is there anyway.

The target after a level that has run the terms S is the teacher's own

    x_0 + sum_{j in S} f_j(teacher's x_{j-1}),

which is the teacher's state wherever S is a prefix of the network. A deleted term counts as run as soon as all earlier
kept terms have run, so what is left learns to do its work. Where a level ends in a norm, the target is what that norm
should read.

Each level chooses between no change, affine and full, and the ridge, on samples that did not fit it; a read-in is kept
where it foretells better there and leaves the level no worse. These samples are never fitted, not even in the end, so
that errors on them can still choose between plans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from parallelize.data import Samples
from parallelize.models import states
from parallelize.models.states import Batch, Step, Teacher, placeholders, run_segment, start_batches
from parallelize.refitting.ridge import Moments, choose
from passes import operators as ops
from passes.apply_plan import LevelSite, StackSite, restore_order, rewrite
from passes.errors import ParallelizeError
from passes.in_projection import InProjection, in_projection, take_in
from passes.infra import Skip, finish
from passes.out_projection import LevelFeatures, add_branch, change_out_projection, level_features, plain_norm
from passes.plan import Plan, Refit, StackPlan
from passes.segment import extract
from passes.stacks import Stack, find_stacks
from passes.terms import Term

Sites = dict[int, tuple[InProjection, fx.Node]]  # by term: where it reads, and the teacher's node of what it read there
ReadIns = tuple[tuple[int, float], ...]
NEGLIGIBLE = 1e-12  # relative error of a state that rounding explains
WORTHWHILE = 0.98  # of the error of a term's input must be left at most, or the term reads what it reads
Progress = Callable[[int, int], None]  # levels done, levels in all


@dataclass(frozen=True)
class LevelRefit:
    """What the refit of one level chose.

    Attributes:
        strength: "none" where no change helped on held-out samples.
        ridge: the chosen ridge, 0 where none.
        before: relative error of the level's sum as scheduled, |y - target|^2 / |target|^2, on held-out samples.
        after: the same with the chosen changes, fitted without these samples.
        read_ins: for each term whose input is foretold, how much of the input's error is left, |..|^2 / |..|^2.
    """

    stack: str
    level: int
    strength: Refit
    ridge: float
    before: float
    after: float
    read_ins: ReadIns = ()
    skipped: tuple[Skip, ...] = ()


@dataclass(frozen=True)
class Refitted:
    """A rewritten and refitted graph.

    Attributes:
        module: the graph, its branches side by side.
        levels: one record for each level of a refitted stack.
        ends: states that should agree, a node's name in `module` and in the teacher: after each level up to which
            exactly the first terms of the stack have run.
    """

    module: fx.GraphModule
    levels: tuple[LevelRefit, ...]
    ends: tuple[tuple[str, str], ...] = ()


def refit(
    teacher: fx.GraphModule,
    plan: Plan,
    fit: Samples,
    held_out: Samples,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Refitted:
    """Rewrite `teacher` by `plan` and refit each level as strongly as the plan allows.

    Args:
        teacher: the captured graph; it is not changed.
        plan: schedule and strength of refit of every stack.
        fit: samples for the normal equations.
        held_out: samples that choose the ridge and the strength.
        batch_size: samples at a time, which bounds the memory for features; None takes what fits.
        progress: called after each level.
    """
    size = batch_size or states.batch_size(teacher)
    module, sites = rewrite(teacher, plan)
    stacks = find_stacks(teacher).stacks
    total, done = sum(len(site.levels) for site in sites), 0
    records: list[LevelRefit] = []
    ends: list[tuple[str, str]] = []
    for stack, part, site in zip(stacks, plan.stacks, sites, strict=True):
        if part.refit == "none" or part.is_serial:
            ends.extend(_ends(stack, part, [level.result for level in site.levels]))
            done += len(site.levels)
            continue
        parts = [start_batches(teacher, stack.entry, samples, size) for samples in (fit, held_out)]
        walk = StackWalk(teacher, stack, module, site, part, (parts[0], parts[1]))
        results = []
        for number in range(len(site.levels)):
            records.append(walk.refit_level(number))
            results.append(walk.entry)
            done += 1
            if progress is not None:
                progress(done, total)
        ends.extend(_ends(stack, part, results))
    restore_order(module)
    return Refitted(finish(module), tuple(records), tuple(ends))


def _ends(stack: Stack, plan: StackPlan, results: Sequence[fx.Node]) -> Iterator[tuple[str, str]]:
    """The states after levels that complete a prefix of the stack, beside the teacher's."""
    for number, ran in plan.complete_prefixes():
        yield results[number].name, stack.terms[ran - 1].result.name


@dataclass(frozen=True, eq=False)
class Fit:
    """The change of a level's sum that was chosen on held-out samples, and the relative error there with it."""

    strength: Refit
    ridge: float
    error: float
    solution: Tensor | None


class StackWalk:
    """Goes along one rewritten stack with the samples' states, level by level, and refits on the way."""

    def __init__(
        self,
        teacher: fx.GraphModule,
        stack: Stack,
        module: fx.GraphModule,
        site: StackSite,
        plan: StackPlan,
        parts: tuple[list[Batch], list[Batch]],
        first: int = 0,
    ) -> None:
        """Start before level `first` with `parts`, samples to fit on and samples to choose on.

        All levels before `first` must be exact, so that the batches' state there is the teacher's.
        """
        self.stack, self.module, self.site, self.plan = stack, module, site, plan
        ran = {term for level in plan.levels[:first] for term in level.terms}
        self.teacher = Teacher(teacher, stack, ran)
        self.entry = site.levels[first].entry
        self.parts = parts
        if not all(parts):
            raise ParallelizeError(
                "A refit needs samples to fit on and samples to choose on.", "Give more with --inputs."
            )

    def refit_level(self, number: int) -> LevelRefit:
        """Refit one level and move all samples past it."""
        level = replace(self.site.levels[number], entry=self.entry)
        if self.plan.refit == "none":
            return self._leave(level.result, LevelRefit(self.stack.name, number, "none", 0.0, 0.0, 0.0))
        bare = [value for (value,) in self._values([level.sum], self.parts[1])]
        weights = _weights(level)
        read_ins, targets = self._taught(number, level)
        features = level_features(level)
        size = max(self._size(targets[1], features.axis), 1e-300)
        before = self._size((t - y for t, y in zip(targets[1], bare, strict=True)), features.axis) / size
        record = LevelRefit(self.stack.name, number, "none", 0.0, before, before, (), features.skipped)
        if before <= NEGLIGIBLE:
            _restore(weights)
            return self._leave(level.result, replace(record, before=0.0, after=0.0))
        source = self._source(features)
        found = self._fit(level, features, source, targets, size)
        if read_ins and found.error > before:
            _restore(weights)
            read_ins, found = (), self._fit(level, features, source, targets, size)
        record = replace(record, strength=found.strength, ridge=found.ridge, after=found.error, read_ins=read_ins)
        if found.solution is None:
            return self._leave(level.result, record)
        total = self._install(level, features, source, found)
        return self._leave(total if level.result is level.sum else level.result, record)

    def _leave(self, result: fx.Node, record: LevelRefit) -> LevelRefit:
        """Move all samples past a level that ends in `result`."""
        for batch, (state,) in zip(self._batches(), self._values([result], self._batches()), strict=True):
            batch.state = state
        self.entry = result
        return record

    def _values(self, wanted: Sequence[fx.Node], batches: Iterable[Batch]) -> Iterator[tuple[Tensor, ...]]:
        """Values of nodes of the level that the samples stand before, batch by batch."""
        segment = extract(self.module, [*placeholders(self.module), self.entry], wanted)
        return (run_segment(segment, (*batch.inputs, batch.state)) for batch in batches)

    def _size(self, values: Iterable[Tensor], axis: int) -> float:
        """|values|^2 of one tensor for each held-out batch, padding left out."""
        pairs = zip(self.parts[1], values, strict=True)
        return sum(_squares(batch.rows(value, axis)) for batch, value in pairs)

    def _batches(self) -> Iterator[Batch]:
        return (batch for part in self.parts for batch in part)

    def _taught(self, number: int, level: LevelSite) -> tuple[ReadIns, tuple[list[Tensor], list[Tensor]]]:
        """Foretell what the level's terms read, and compute targets of its sum for both parts of the samples.

        The teacher runs once for both, and once more for the second terms of chains, whose input is foretold first.
        """
        step = self._step(number, level)
        read_ins: list[tuple[int, float]] = []
        reached: list[list[tuple[Tensor, Tensor]]] = []
        for place in range(level.level.depth):
            sites = self._sites(level, place)
            passes = [self._pass(sites, part, None if place else step) for part in self.parts]
            reached = reached or [pairs for _, pairs in passes]
            read_ins.extend(self._foretell(sites, passes[0][0], passes[1][0]))
        self.teacher.take(step, self._batches(), (state for pairs in reached for _, state in pairs))
        fit, held_out = ([target for target, _ in pairs] for pairs in reached)
        return tuple(read_ins), (fit, held_out)

    def _step(self, number: int, level: LevelSite) -> Step:
        """The teacher's step that the level stands for."""
        ran = self.teacher.ran | set(level.level.terms)
        later = {term for following in self.plan.levels[number + 1 :] for term in following.terms}
        gone = [t for t in self.plan.deleted if t not in ran and not any(kept < t for kept in later)]
        owner = None if level.result is level.sum else self.stack.terms[level.level.terms[-1]]
        return self.teacher.step([*level.level.terms, *gone], owner)

    def _pass(
        self, sites: Sites, part: Sequence[Batch], step: Step | None
    ) -> tuple[list[Moments], list[tuple[Tensor, Tensor]]]:
        """Run the teacher once: normal equations of what the terms' inputs lack, and what `step` reaches."""
        nodes = () if step is None else step.nodes
        ours = [site.source for site, _ in sites.values()]
        moments = [Moments(width + 1, width) for width in (source.meta["val"].shape[-1] for source in ours)]
        reached: list[tuple[Tensor, Tensor]] = []
        if not nodes and not ours:
            return moments, reached
        theirs = self.teacher.values([*nodes, *(node for _, node in sites.values())], part)
        for batch, have, want in zip(part, self._values(ours, part), theirs, strict=True):
            if step is not None:
                reached.append(step.reach(batch.teacher, want[: len(nodes)]))
            for sums, ours_, theirs_ in zip(moments, have, want[len(nodes) :], strict=True):
                rows = batch.rows(ours_)
                sums.add(_with_constant([rows]), batch.rows(theirs_) - rows)
        return moments, reached

    # read-in ---------------------------------------------------------------------------------------------------------

    def _sites(self, level: LevelSite, place: int) -> Sites:
        """Where the terms at one place of the level's chains read."""
        terms = dict(zip([number for chain in level.level.chains for number in chain], level.terms, strict=True))
        chains = [chain for chain in level.level.chains if len(chain) > place]
        states = {c[place]: level.entry if place == 0 else terms[c[place - 1]].result for c in chains}
        found = {number: self._site(terms[number], number, state) for number, state in states.items()}
        return {number: site for number, site in found.items() if site is not None}

    def _site(self, term: Term, number: int, state: fx.Node) -> tuple[InProjection, fx.Node] | None:
        """Where a term reads, and the node of the teacher that has what it read in training."""
        ours, trained = in_projection(term, state), self.stack.terms[number]
        theirs = in_projection(trained, trained.skip)
        if isinstance(ours, str) or isinstance(theirs, str):
            return None
        return ours, theirs.source

    def _foretell(
        self, sites: Sites, fit: Sequence[Moments], held_out: Sequence[Moments]
    ) -> Iterator[tuple[int, float]]:
        """Foretell the inputs of terms where that helps; what is left of each error."""
        for (number, (site, _)), fitting, judging in zip(sites.items(), fit, held_out, strict=True):
            if judging.target <= NEGLIGIBLE * float(judging.features.diagonal().sum()):
                continue
            read = slice(None if site.has_bias else -1)
            choice = choose(fitting.columns(read), judging.columns(read), constant=site.has_bias)
            if choice.error > WORTHWHILE:
                continue
            matrix = choice.solution[: site.source.meta["val"].shape[-1]].T
            take_in(self.module, site, matrix, choice.solution[-1] if site.has_bias else None)
            yield number, choice.error

    # read-out --------------------------------------------------------------------------------------------------------

    def _fit(
        self,
        level: LevelSite,
        features: LevelFeatures,
        source: fx.Node,
        targets: tuple[list[Tensor], list[Tensor]],
        size: float,
    ) -> Fit:
        """Choose between no change, affine and full, and a ridge; `size` is |target|^2 on held-out samples."""
        outs = features.outs if self.plan.refit == "full" else ()
        wanted = [*(out.features for out in outs), source, level.sum]
        axes = [*(out.axis for out in outs), features.axis, features.axis]
        fit, held_out = (
            _moments(part, self._values(wanted, part), axes, target)
            for part, target in zip(self.parts, targets, strict=True)
        )
        unchanged = held_out.target / size
        affine = slice(-(source.meta["val"].shape[features.axis] + 1), None)
        options: list[tuple[Refit, Moments, Moments]] = [("affine", fit.columns(affine), held_out.columns(affine))]
        if outs:
            options.append(("full", fit, held_out))
        best = Fit("none", 0.0, unchanged, None)
        for strength, fitting, judging in options:
            found = choose(fitting, judging)
            if found.error * unchanged < best.error:
                best = Fit(strength, found.ridge, found.error * unchanged, found.solution)
        return best

    def _source(self, features: LevelFeatures) -> fx.Node:
        """The node that the affine part reads."""
        is_norm = features.source.target in ops.ROW_NORMS and features.source is not self.entry
        return plain_norm(self.module, features.source) if is_norm else features.source

    def _install(self, level: LevelSite, features: LevelFeatures, source: fx.Node, found: Fit) -> fx.Node:
        """Write a solution into the graph; returns the level's new sum."""
        assert found.solution is not None
        solution = found.solution
        total, offset = level.sum, 0
        dtype = total.meta["val"].dtype
        for out in features.outs if found.strength == "full" else ():
            change = solution[offset : offset + out.width].T
            offset += out.width
            if out.apart:
                total = add_branch(self.module, total, out.features, change.to(dtype), None, features.axis)
            else:
                change_out_projection(self.module, out, change)
        affine, constant = solution[offset:-1].T.to(dtype), solution[-1].to(dtype)
        return add_branch(self.module, total, source, affine, constant, features.axis)


def _moments(
    batches: Sequence[Batch], values: Iterable[tuple[Tensor, ...]], axes: Sequence[int], targets: Sequence[Tensor]
) -> Moments:
    """Normal equations of what a level's sum lacks, from the (features..., sum) of each batch."""
    moments: Moments | None = None
    for batch, found, target in zip(batches, values, targets, strict=True):
        *columns, total = (batch.rows(value, axis) for value, axis in zip(found, axes, strict=True))
        rows = _with_constant(columns)
        moments = moments or Moments(rows.shape[1], total.shape[1])
        moments.add(rows, batch.rows(target, axes[-1]) - total)
    assert moments is not None
    return moments


def _weights(level: LevelSite) -> dict[fx.Node, tuple[Any, ...]]:
    """The arguments of all linears of a level."""
    return {node: node.args for term in level.terms for node in term.inner if node.target == ops.LINEAR}


def _restore(arguments: dict[fx.Node, tuple[Any, ...]]) -> None:
    for node, args in arguments.items():
        node.args = args


def _squares(value: Tensor) -> float:
    return float(value.double().square().sum())


def _with_constant(columns: Iterable[Tensor]) -> Tensor:
    """Columns side by side, a constant last."""
    parts = list(columns)
    return torch.cat([*parts, torch.ones(len(parts[0]), 1, dtype=parts[0].dtype)], 1)
