"""The baseline every rewrite must beat: delete blocks down to the same depth.

Three ways to pick what stays are tried: the first block of each group of the rewrite, the blocks of largest influence
(ShortGPT, arXiv 2403.03853), and greedy deletion of what costs least (SLEB, arXiv 2402.09025). The one that measures
best on held-out samples, after an affine refit, is the rival; it then gets the same refit as the rewrite. Ways are
compared on as many samples as hold the positions that an affine refit needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import fx

from parallelize.baselines.block_deletion import Kept, deletion, first_of_each_group, most_influential
from parallelize.baselines.depths import Depths, wanted_depths
from parallelize.baselines.greedy import GREEDY_SAMPLES, least_costly
from parallelize.baselines.trial import Trial
from parallelize.data import Samples
from parallelize.metrics import Metric
from parallelize.planning.sample_counts import judged_count, sample_count
from parallelize.refitting.refit import refit
from passes.plan import Plan, Refit
from passes.stacks.find import Stack, find_stacks


def deletion_plan(
    teacher: fx.GraphModule, plan: Plan, fit: Samples, held_out: Samples, metric: Metric | str | None
) -> Plan:
    """The best way to delete blocks so that each stack is as deep as in `plan`; the strength of refit is kept.

    Without a metric nothing is measured: the first block of each group stays.
    """
    few = sample_count(find_stacks(teacher).stacks)
    return fit.room.fitting(lambda: _deletion_plan(teacher, plan, fit.head(few), held_out.head(few), metric))


def _deletion_plan(
    teacher: fx.GraphModule, plan: Plan, fit: Samples, held_out: Samples, metric: Metric | str | None
) -> Plan:
    stacks = find_stacks(teacher).stacks
    depths = wanted_depths(stacks, plan)
    first = first_of_each_group(stacks, plan, depths)
    if metric is None:
        return _like(deletion(stacks, first or _spread(stacks, depths)), plan)
    keeps = [
        first,
        most_influential(teacher, stacks, depths, held_out),
        least_costly(stacks, depths, Trial(teacher, held_out.head(judged_count(stacks, GREEDY_SAMPLES)), metric)),
    ]
    plans = [_like(deletion(stacks, kept), plan) for kept in dict.fromkeys(keeps) if kept is not None]
    if len(plans) == 1:
        return plans[0]
    trial = Trial(teacher, held_out, metric)
    strength: Refit = "none" if all(part.refit == "none" for part in plan.stacks) else "affine"
    return min(plans, key=lambda each: trial.error(refit(teacher, each.with_refit(strength), fit, held_out).module))


def _spread(stacks: Sequence[Stack], depths: Depths) -> Kept:
    """As many blocks of each stack as it may have, at equal distances."""
    counts = [(len(stack.blocks), allowed.stop - 1) for stack, allowed in zip(stacks, depths.allowed, strict=True)]
    return tuple(tuple(number * count // kept for number in range(kept)) for count, kept in counts)


def _like(made: Plan, plan: Plan) -> Plan:
    """The schedules of `made` with the seed and the strengths of refit of `plan`."""
    pairs = zip(made.stacks, plan.stacks, strict=True)
    return Plan(tuple(replace(part, refit=other.refit) for part, other in pairs), plan.seed)
