"""Closed-form refit: keep the inner weights of a rewritten network, solve for the outer ones again.

A trained network is a sum of terms alpha_j sigma(W_j x + b_j). Terms that no longer read each other still make useful
features; what is wrong are the coefficients. On each level, going along the *rewritten* network, the change of the
level's concatenated out-projection is found by ridge regression over the features that the out-projections read, the
normalised state norm(x) and a constant (the affine term). No gradient, no new kernel: after width fusion the affine
part is d more columns of an out-projection that is there anyway.

The target after a level that has run the terms S is the teacher's own

    x_0 + sum_{j in S} f_j(teacher's x_{j-1}),

which is the teacher's state wherever S is a prefix of the network. A deleted term counts as run as soon as all earlier
kept terms have run, so what is left learns to do its work.

Each level chooses between no change, affine and full, and the ridge, on samples that did not fit it. They are never
fitted, not even in the end, so that errors on them can still choose between plans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from parallelize.inputs import Samples
from parallelize.ridge import Choice, Moments, choose, solve
from passes.apply_plan import LevelSite, StackSite, restore_order, rewrite
from passes.errors import ParallelizeError
from passes.infra import Skip, finish
from passes.out_projection import (
    LevelFeatures,
    add_affine_branch,
    add_to_out_projection,
    level_features,
    plain_norm,
)
from passes.plan import Plan, Refit, StackPlan
from passes.segment import extract
from passes.stacks import Stack, find_stacks

NEGLIGIBLE = 1e-12  # relative error of a state that rounding explains
Inputs = tuple[Tensor, ...]
Progress = Callable[[int, int], None]  # levels done, levels in all


@dataclass(frozen=True)
class LevelRefit:
    """What the refit of one level chose.

    Attributes:
        strength: "none" where no change helped on held-out samples.
        ridge: the chosen ridge, 0 where none.
        before: relative error of the state after the level, |y - target|^2 / |target|^2, on held-out samples.
        after: the same with the chosen change, fitted without these samples.
    """

    stack: str
    level: int
    strength: Refit
    ridge: float
    before: float
    after: float
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


@dataclass
class Batch:
    """One batch on its way through the levels: inputs, the teacher's state, the target and the rewritten state."""

    inputs: Inputs
    teacher: Tensor
    target: Tensor
    state: Tensor


def refit(
    teacher: fx.GraphModule,
    plan: Plan,
    fit: Samples,
    held_out: Samples,
    batch_size: int = 100,
    progress: Progress | None = None,
) -> Refitted:
    """Rewrite `teacher` by `plan` and refit each level as strongly as the plan allows.

    Args:
        teacher: the captured graph; it is not changed.
        plan: schedule and strength of refit of every stack.
        fit: samples for the normal equations.
        held_out: samples that choose the ridge and the strength.
        batch_size: samples at a time; bounds the memory for features.
        progress: called after each level.
    """
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
        parts = [start_batches(teacher, stack.entry, samples, batch_size) for samples in (fit, held_out)]
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
    """The states after levels that complete a prefix of the stack, beside the teacher's; deleted terms count as run."""
    waiting = {term for level in plan.levels for term in level.terms}
    last = -1
    for level, result in zip(plan.levels, results, strict=True):
        waiting -= set(level.terms)
        last = max(last, *level.terms)
        following = min(waiting, default=len(stack.terms))
        if last < following:
            yield result.name, stack.terms[following - 1].result.name


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
        self.teacher, self.stack, self.module, self.site, self.plan = teacher, stack, module, site, plan
        self.ran = {term for level in plan.levels[:first] for term in level.terms}
        self.prefix = len(self.ran)
        self.entry = site.levels[first].entry
        self.parts = parts

    def refit_level(self, number: int) -> LevelRefit:
        """Refit one level and move all samples past it."""
        level = replace(self.site.levels[number], entry=self.entry)
        features = level_features(level)
        source = level.entry if features.norm is None else plain_norm(self.module, features.norm)
        self._advance_target(number)
        strength, choice, before, solution = self._fit(level, features, source)
        result = level.result
        if solution is not None:
            result = self._install(level, features, source, strength, solution)
        segment = extract(self.module, [*placeholders(self.module), self.entry], [result])
        for batch in self._batches():
            (batch.state,) = run_segment(segment, (*batch.inputs, batch.state))
        self.entry = result
        after = before if choice is None else choice.error * before
        ridge = 0.0 if choice is None else choice.ridge
        return LevelRefit(self.stack.name, number, strength, ridge, before, after, features.skipped)

    def _batches(self) -> Iterator[Batch]:
        return (batch for part in self.parts for batch in part)

    def _advance_target(self, number: int) -> None:
        """Move every batch's target past a level, and the teacher's state where the level completes a prefix."""
        new = list(self.plan.levels[number].terms)
        ran = self.ran | set(new)
        later = {term for level in self.plan.levels[number + 1 :] for term in level.terms}
        for term in self.plan.deleted:
            if term not in ran and not any(kept < term for kept in later):
                ran.add(term)
                new.append(term)
        prefix = self.prefix
        while prefix in ran:
            prefix += 1
        terms = self.stack.terms
        start = [*placeholders(self.teacher), terms[self.prefix].skip]
        if prefix == len(ran):
            segment = extract(self.teacher, start, [terms[prefix - 1].result])
            for batch in self._batches():
                (batch.teacher,) = run_segment(segment, (*batch.inputs, batch.teacher))
                batch.target = batch.teacher
            self.prefix = prefix
        else:
            outputs = [node for term in sorted(new) for node in (terms[term].result, terms[term].skip)]
            segment = extract(self.teacher, start, outputs)
            for batch in self._batches():
                states = run_segment(segment, (*batch.inputs, batch.teacher))
                batch.target = batch.target + sum(a - b for a, b in zip(states[::2], states[1::2], strict=True))
        self.ran = ran

    def _fit(
        self, level: LevelSite, features: LevelFeatures, source: fx.Node
    ) -> tuple[Refit, Choice | None, float, Tensor | None]:
        """Choose a strength and a ridge; strength, choice, relative error before, solution."""
        outs = features.outs if self.plan.refit == "full" else ()
        error = self._level_error(level)
        if error <= NEGLIGIBLE or self.plan.refit == "none":
            return "none", None, 0.0 if error <= NEGLIGIBLE else error, None
        wanted = [*(out.args[0] for out in outs), source, level.result]
        segment = extract(self.module, [*placeholders(self.module), self.entry], wanted)  # type: ignore[arg-type]
        fit, held_out = (_moments(segment, part) for part in self.parts)
        before = held_out.target / max(_squares(batch.target for batch in self.parts[1]), 1e-300)
        affine = slice(-(source.meta["val"].shape[-1] + 1), None)
        options: list[tuple[Refit, Moments, Moments]] = [("affine", fit.columns(affine), held_out.columns(affine))]
        if outs:
            options.append(("full", fit, held_out))
        best: tuple[Refit, Choice, Moments] | None = None
        for strength, fitting, judging in options:
            found = choose(fitting, judging)
            if found.error < 1.0 and (best is None or found.error < best[1].error):
                best = (strength, found, fitting)
        if best is None:
            return "none", None, before, None
        strength, choice, fitted = best
        return strength, choice, before, solve(fitted, [choice.ridge])[0]

    def _level_error(self, level: LevelSite) -> float:
        """Relative error of the state after the level on the first held-out batch."""
        batch = self.parts[1][0]
        segment = extract(self.module, [*placeholders(self.module), self.entry], [level.result])
        (state,) = run_segment(segment, (*batch.inputs, batch.state))
        return _squares([state - batch.target]) / max(_squares([batch.target]), 1e-300)

    def _install(
        self, level: LevelSite, features: LevelFeatures, source: fx.Node, strength: Refit, solution: Tensor
    ) -> fx.Node:
        """Write a solution into the graph; returns the state after the level."""
        offset = 0
        if strength == "full":
            for out in features.outs:
                width = out.args[1].meta["val"].shape[1]  # type: ignore[union-attr]
                add_to_out_projection(self.module, out, solution[offset : offset + width].T)
                offset += width
        dtype = level.result.meta["val"].dtype
        affine, constant = solution[offset:-1].T.to(dtype), solution[-1].to(dtype)
        return add_affine_branch(self.module, level, source, affine, constant)


def placeholders(module: fx.GraphModule) -> list[fx.Node]:
    """The graph's input nodes."""
    return [node for node in module.graph.nodes if node.op == "placeholder"]


def run_segment(segment: fx.GraphModule, inputs: Sequence[Any]) -> tuple[Tensor, ...]:
    """Run a segment without recording gradients."""
    with torch.inference_mode():
        outputs: tuple[Tensor, ...] = segment(*inputs)
    return outputs


def start_batches(teacher: fx.GraphModule, state: fx.Node, samples: Samples, batch_size: int = 100) -> list[Batch]:
    """Run the teacher up to a state and hold it for every sample."""
    embed = extract(teacher, placeholders(teacher), [state])
    batches = []
    for inputs in samples.batches(batch_size):
        (value,) = run_segment(embed, inputs)
        batches.append(Batch(inputs, value, value, value))
    return batches


def _moments(segment: fx.GraphModule, batches: Sequence[Batch]) -> Moments:
    """Normal equations of what is missing after a level, from a segment (inputs, state) -> (features..., result)."""
    moments: Moments | None = None
    for batch in batches:
        *columns, result = run_segment(segment, (*batch.inputs, batch.state))
        rows, missing = _rows(columns), (batch.target - result).flatten(0, -2)
        moments = moments or Moments(rows.shape[1], missing.shape[1])
        moments.add(rows, missing)
    if moments is None:
        raise ParallelizeError("A refit needs samples to fit on and samples to choose on.", "Give more with --inputs.")
    return moments


def _squares(values: Iterable[Tensor]) -> float:
    return sum(float(value.double().square().sum()) for value in values)


def _rows(columns: Sequence[Tensor]) -> Tensor:
    """Features (rows, columns) with a constant last: every position of every sample is a row."""
    flat = [column.flatten(0, -2) for column in columns]
    return torch.cat([*flat, torch.ones(len(flat[0]), 1, dtype=flat[0].dtype)], 1)
