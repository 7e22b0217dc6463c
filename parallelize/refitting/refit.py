"""Closed-form refit: keep what a rewritten network computes, solve for how it is read and how it is added up.

A trained network is a sum of terms alpha_j sigma(W_j h_j + b_j). Terms that no longer read each other still make useful
features. Two things are wrong, and both are mended by ridge regression, level by level along the *rewritten* network:

    read-in    a term reads h = norm(x) of an earlier state than in training. h + A h + b foretells what it read there;
               A and b become part of the inner weights (passes.schedule.in_projection).
    read-out   the outer coefficients alpha of the level, and an affine function of norm(x), are solved for again so
               that the level comes to the teacher's state (passes.schedule.out_projection).

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

from collections.abc import Callable, Iterator, Sequence

from torch import fx

from parallelize.data import Samples
from parallelize.machine.torch_settings import whole_float32
from parallelize.models import states
from parallelize.models.states import elements_of, example_size, start_batches
from parallelize.refitting.records import LevelRefit, Refitted
from parallelize.refitting.walk import StackWalk
from passes.graph.editing import finish, restore_order
from passes.plan import Plan, StackPlan
from passes.schedule.apply_plan import rewrite
from passes.schedule.out_projection import level_features
from passes.schedule.sites import StackSite
from passes.stacks.find import Stack, find_stacks

Progress = Callable[[int, int], None]  # levels done, levels in all


@whole_float32()
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
        batch_size: samples at a time at most; None takes as many as the bound of the job's buffer is meant for. There
            are fewer where a level has many features.
        progress: called after each level.
    """
    size = batch_size or states.batch_size(teacher, elements=fit.buffer.elements)
    return fit.room.fitting(lambda: _refit(teacher, plan, fit, held_out, size, progress))


def _refit(
    teacher: fx.GraphModule, plan: Plan, fit: Samples, held_out: Samples, size: int, progress: Progress | None
) -> Refitted:
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
        few = max(1, min(size, fit.buffer.elements // _features(stack, part, site)))
        parts = [start_batches(teacher, stack.entry, samples, few) for samples in (fit, held_out)]
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


def _features(stack: Stack, plan: StackPlan, site: StackSite) -> int:
    """Elements of the features that one sample has on the level where it has most."""
    levels = [level_features(level) for level in site.levels]
    columns = [sum(out.width for out in found.outs) if plan.refit == "full" else 0 for found in levels]
    channels = example_size(stack.entry.meta["val"].shape[levels[0].axis])
    return max(1, elements_of(stack.entry) // channels * (max(columns) + channels + 1))


def _ends(stack: Stack, plan: StackPlan, results: Sequence[fx.Node]) -> Iterator[tuple[str, str]]:
    """The states after levels that complete a prefix of the stack, beside the teacher's."""
    for number, ran in plan.complete_prefixes():
        yield results[number].name, stack.terms[ran - 1].result.name
