"""One rewritten stack, level by level: how each level is read and added up again, chosen on held-out samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from parallelize.data.buffer import Kept
from parallelize.models.states import Batch, Step, Teacher, placeholders, run_segment
from parallelize.refitting.equations import Equations, Form
from parallelize.refitting.records import LevelRefit, ReadIns
from parallelize.refitting.ridge import choose
from parallelize.refitting.solution import Solution
from parallelize.refitting.squares import sum_of_squares
from passes.errors import ParallelizeError
from passes.graph import operators as ops
from passes.graph.segment import extract
from passes.plan import Refit, StackPlan
from passes.schedule.in_projection import InProjection, in_projection, take_in
from passes.schedule.out_projection import LevelFeatures, add_branch, change_out_projection, level_features, plain_norm
from passes.schedule.sites import LevelSite, StackSite
from passes.stacks.find import Stack
from passes.stacks.terms import Term

Targets = tuple[list[Kept], list[Kept]]  # of samples to fit on and of samples to choose on
Sites = dict[int, tuple[InProjection, fx.Node]]  # by term: where it reads, and the teacher's node of what it read there
NEGLIGIBLE = 1e-12  # relative error of a state that rounding explains
WORTHWHILE = 0.98  # of the error of a term's input must be left at most, or the term reads what it reads


@dataclass(frozen=True, eq=False)
class Fit:
    """The change of a level's sum that was chosen on held-out samples, and the relative errors there.

    Attributes:
        error: with the change.
        unchanged: without it.
    """

    strength: Refit
    ridge: float
    error: float
    unchanged: float
    solution: Solution | None


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
        self._done: tuple[LevelSite, fx.Node, Sequence[Kept]] | None = None  # the level that samples still stand before
        if not all(parts):
            raise ParallelizeError(
                "A refit needs samples to fit on and samples to choose on.", "Give more with --inputs."
            )

    def refit_level(self, number: int) -> LevelRefit:
        """Refit one level, having moved all samples past the one before."""
        self.go_on()
        level = replace(self.site.levels[number], entry=self.entry)
        if self.plan.refit == "none":
            return self._leave(level, level.result, LevelRefit(self.stack.name, number, "none", 0.0, 0.0, 0.0))
        weights = _weights(level)
        read_ins, targets = self._taught(number, level)
        features = level_features(level)
        size = max(self._size((target.value for target in targets[1]), features.axis), 1e-300)
        record = LevelRefit(self.stack.name, number, "none", 0.0, 0.0, 0.0, (), features.skipped)
        before = self._before(level, weights, targets[1], features.axis) / size if read_ins else None
        if self._is_exact(level, targets[1], features.axis) if before is None else before <= NEGLIGIBLE:
            _restore(weights)
            return self._leave(level, level.result, record)
        source = self._source(features)
        found, sums = self._fit(level, features, source, targets, size)
        before = found.unchanged if before is None else before
        if read_ins and found.error > before:
            _restore(weights)
            read_ins, sums = (), []
            found, sums = self._fit(level, features, source, targets, size)
        record = replace(
            record, strength=found.strength, ridge=found.ridge, before=before, after=found.error, read_ins=read_ins
        )
        if found.solution is None:
            return self._leave(level, level.result, record, sums)
        total = self._install(level, features, source, found)
        result = total if level.result is level.sum else level.result
        return self._leave(level, result, record, sums if found.strength == "affine" else ())

    def _leave(self, level: LevelSite, result: fx.Node, record: LevelRefit, sums: Sequence[Kept] = ()) -> LevelRefit:
        """A level ends in `result`; where its sums are known, samples go past it from these on."""
        self.entry, self._done = result, (level, result, sums)
        return record

    def go_on(self, *, choosing_only: bool = False) -> None:
        """Move samples past the level that was refitted last, all or only those to choose on."""
        if self._done is None:
            return
        level, result, sums = self._done
        self._done, first = None, len(self.parts[0]) if choosing_only else 0
        batches = list(self._batches())[first:]
        start = [level.entry, *([level.sum] if sums else [])]
        segment = extract(self.module, [*placeholders(self.module), *start], [result])
        for place, batch in enumerate(batches, first):
            known = [sums[place].value] if sums else []
            batch.state = batch.keep(run_segment(segment, (*batch.inputs, batch.state.value, *known))[0])

    def _before(
        self, level: LevelSite, weights: dict[fx.Node, tuple[Any, ...]], targets: Sequence[Kept], axis: int
    ) -> float:
        """|target - sum|^2 on held-out samples where all terms read as they did."""
        changed = _weights(level)
        _restore(weights)
        bare = self._values([level.sum], self.parts[1])
        lack = self._size((t.value - y for t, (y,) in zip(targets, bare, strict=True)), axis)
        _restore(changed)
        return lack

    def _is_exact(self, level: LevelSite, targets: Sequence[Kept], axis: int) -> bool:
        """Whether the level comes to its target on held-out samples; the first batch that tells is the last one run."""
        for batch, kept, (bare,) in zip(self.parts[1], targets, self._values([level.sum], self.parts[1]), strict=True):
            target = kept.value
            lack = sum_of_squares(batch.rows(target - bare, axis))
            if not lack <= NEGLIGIBLE * max(sum_of_squares(batch.rows(target, axis)), 1e-300):
                return False
        return True

    def _values(self, wanted: Sequence[fx.Node], batches: Iterable[Batch]) -> Iterator[tuple[Tensor, ...]]:
        """Values of nodes of the level that the samples stand before, batch by batch."""
        segment = extract(self.module, [*placeholders(self.module), self.entry], wanted)
        return (run_segment(segment, (*batch.inputs, batch.state.value)) for batch in batches)

    def _size(self, values: Iterable[Tensor], axis: int) -> float:
        """|values|^2 of one tensor for each held-out batch, padding left out."""
        pairs = zip(self.parts[1], values, strict=True)
        return sum(sum_of_squares(batch.rows(value, axis)) for batch, value in pairs)

    def _batches(self) -> Iterator[Batch]:
        return (batch for part in self.parts for batch in part)

    def _taught(self, number: int, level: LevelSite) -> tuple[ReadIns, Targets]:
        """Foretell what the level's terms read, and compute targets of its sum for both parts of the samples.

        The teacher runs once for both, and once more for the second terms of chains, whose input is foretold first.
        """
        step = self._step(number, level)
        read_ins: list[tuple[int, float]] = []
        reached: list[list[tuple[Kept, Kept]]] = []
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
    ) -> tuple[list[Equations], list[tuple[Kept, Kept]]]:
        """Run the teacher once: normal equations of what the terms' inputs lack, and what `step` reaches."""
        nodes = () if step is None else step.nodes
        ours = [site.source for site, _ in sites.values()]
        moments = [
            Equations(width + 1, width, part[0].state.device, part[0].samples.buffer)
            for width in (source.meta["val"].shape[-1] for source in ours)
        ]
        reached: list[tuple[Kept, Kept]] = []
        if not nodes and not ours:
            return moments, reached
        ahead = () if step is None else step.ahead
        theirs = self.teacher.values([*nodes, *(node for _, node in sites.values())], part, ahead)
        for batch, have, want in zip(part, self._values(ours, part), theirs, strict=True):
            if step is not None:
                reached.append(step.reach(batch, want[: len(nodes)]))
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
        self, sites: Sites, fit: Sequence[Equations], held_out: Sequence[Equations]
    ) -> Iterator[tuple[int, float]]:
        """Foretell the inputs of terms where that helps; what is left of each error."""
        for (number, (site, _)), fitting, judging in zip(sites.items(), fit, held_out, strict=True):
            if judging.target <= NEGLIGIBLE * float(judging.squares.sum()):
                continue
            read = slice(None if site.has_bias else -1)
            choice = choose(fitting.columns(read), judging.columns(read), constant=site.has_bias)
            if choice.error > WORTHWHILE:
                continue
            width = site.source.meta["val"].shape[-1]
            shift = choice.solution.part(width, width + 1)[0] if site.has_bias else None
            take_in(self.module, site, choice.solution.part(0, width).T, shift)
            yield number, choice.error

    # read-out --------------------------------------------------------------------------------------------------------

    def _fit(
        self,
        level: LevelSite,
        features: LevelFeatures,
        source: fx.Node,
        targets: Targets,
        size: float,
    ) -> tuple[Fit, list[Kept]]:
        """Choose between no change, affine and full, and a ridge; `size` is |target|^2 on held-out samples.

        Returns:
            What was chosen, and the level's sum without it for each batch where only an affine change was tried.
        """
        outs = features.outs if self.plan.refit == "full" else ()
        wanted = [*(out.features for out in outs), source, level.sum]
        axes = [*(out.axis for out in outs), features.axis, features.axis]
        sums: list[Kept] = []
        fit, held_out = (
            _moments(part, self._values(wanted, part), axes, target, None if outs else sums)
            for part, target in zip(self.parts, targets, strict=True)
        )
        unchanged = held_out.target / size
        affine = slice(-(source.meta["val"].shape[features.axis] + 1), None)
        options: list[tuple[Refit, Form, Form]] = [("affine", fit.columns(affine), held_out.columns(affine))]
        if outs:
            options.append(("full", fit.columns(slice(None)), held_out.columns(slice(None))))
        best = Fit("none", 0.0, unchanged, unchanged, None)
        for strength, fitting, judging in options:
            found = choose(fitting, judging)
            if found.error * unchanged < best.error:
                best = Fit(strength, found.ridge, found.error * unchanged, unchanged, found.solution)
        return best, sums

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
            change = solution.part(offset, offset + out.width).T
            offset += out.width
            if out.apart:
                total = add_branch(self.module, total, out.features, change.to(dtype), None, features.axis)
            else:
                change_out_projection(self.module, out, change)
        width = source.meta["val"].shape[features.axis]
        affine, constant = solution.part(offset, offset + width), solution.part(offset + width, offset + width + 1)
        return add_branch(self.module, total, source, affine.T.to(dtype), constant[0].to(dtype), features.axis)


def _moments(
    batches: Sequence[Batch],
    values: Iterable[tuple[Tensor, ...]],
    axes: Sequence[int],
    targets: Sequence[Kept],
    sums: list[Kept] | None,
) -> Equations:
    """Normal equations of what a level's sum lacks, from the (features..., sum) of each batch; `sums` gets the last."""
    moments: Equations | None = None
    for batch, found, target in zip(batches, values, targets, strict=True):
        *columns, total = (batch.rows(value, axis) for value, axis in zip(found, axes, strict=True))
        rows = _with_constant(columns)
        moments = moments or Equations(rows.shape[1], total.shape[1], rows.device, batch.samples.buffer)
        moments.add(rows, batch.rows(target.value, axes[-1]) - total)
        if sums is not None:
            sums.append(batch.keep(found[-1]))
    assert moments is not None
    return moments


def _weights(level: LevelSite) -> dict[fx.Node, tuple[Any, ...]]:
    """The arguments of all linears of a level."""
    return {node: node.args for term in level.terms for node in term.inner if node.target == ops.LINEAR}


def _restore(arguments: dict[fx.Node, tuple[Any, ...]]) -> None:
    for node, args in arguments.items():
        node.args = args


def _with_constant(columns: Iterable[Tensor]) -> Tensor:
    """Columns side by side, a constant last."""
    parts = list(columns)
    return torch.cat([*parts, parts[0].new_ones(len(parts[0]), 1)], 1)
