"""The baseline every rewrite must beat: delete blocks down to the same depth.

Two ways to pick what stays are tried, the first block of each group of the rewrite and the blocks of largest influence
1 - cos(x_{i-1}, x_i) (ShortGPT, arXiv 2403.03853). The one that measures better on held-out samples, after an affine
refit, is the rival; it then gets the same refit as the rewrite.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, fx
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from parallelize.inputs import Samples
from parallelize.metrics import Metric, predict, score
from parallelize.refit import placeholders, refit, run_segment
from passes.plan import Level, Plan, Refit, StackPlan
from passes.segment import extract
from passes.stacks import Stack, find_stacks

_SAMPLES = 256


def deletion_plan(teacher: fx.GraphModule, plan: Plan, fit: Samples, held_out: Samples, metric: Metric) -> Plan:
    """The better way to delete blocks so that each stack is as deep as in `plan`; the strength of refit is kept."""
    stacks = find_stacks(teacher).stacks
    fit, held_out = fit.head(_SAMPLES), held_out.head(_SAMPLES)
    keeps = [_first_of_each_group(stacks, plan), _most_influential(teacher, stacks, plan, held_out)]
    plans = [_keep(stacks, plan, keep) for keep in keeps if keep is not None]
    if len(set(plans)) == 1:
        return plans[0]
    expected = predict(teacher, held_out)
    strength: Refit = "none" if all(part.refit == "none" for part in plan.stacks) else "affine"

    def error(candidate: Plan) -> float:
        module = refit(teacher, candidate.with_refit(strength), fit, held_out).module
        return score(predict(module, held_out), expected, held_out.labels).error(metric)

    return min(plans, key=error)


def _keep(stacks: Sequence[Stack], plan: Plan, kept: Sequence[Sequence[int]]) -> Plan:
    parts = []
    for stack, part, blocks in zip(stacks, plan.stacks, kept, strict=True):
        levels = tuple(Level(((term,),)) for block in blocks for term in stack.blocks[block])
        parts.append(StackPlan(part.terms, levels, part.refit))
    return Plan(tuple(parts), plan.seed)


def _depths(stacks: Sequence[Stack], plan: Plan) -> list[int]:
    """Blocks on the critical path of each stack, rounded up."""
    return [-(-part.depth // stack.period) for stack, part in zip(stacks, plan.stacks, strict=True)]


def _first_of_each_group(stacks: Sequence[Stack], plan: Plan) -> list[list[int]] | None:
    """The first block of each level that a block begins on, where that makes the right depth."""
    kept = []
    for stack, part, depth in zip(stacks, plan.stacks, _depths(stacks, plan), strict=True):
        begins = {block[0]: number for number, block in enumerate(stack.blocks)}
        blocks = [
            min(begins[t] for t in level.terms if t in begins)
            for level in part.levels
            if set(level.terms) & set(begins)
        ]
        if len(set(blocks)) != depth:
            return None
        kept.append(sorted(set(blocks)))
    return kept


def _most_influential(
    teacher: fx.GraphModule, stacks: Sequence[Stack], plan: Plan, samples: Samples
) -> list[list[int]]:
    kept = []
    for stack, depth in zip(stacks, _depths(stacks, plan), strict=True):
        influence = block_influence(teacher, stack, samples)
        ranked = sorted(range(len(influence)), key=lambda block: -influence[block])
        kept.append(sorted(ranked[:depth]))
    return kept


def block_influence(teacher: fx.GraphModule, stack: Stack, samples: Samples) -> list[float]:
    """1 - cos(state before, state after) of every block, averaged over positions and samples."""
    ends = [stack.terms[block[-1]].result for block in stack.blocks]
    segment = extract(teacher, placeholders(teacher), [stack.entry, *ends])
    totals, count = [0.0] * len(ends), 0
    for inputs in samples.batches(100):
        states = run_segment(segment, inputs)
        count += len(states[0])
        for block, (before, after) in enumerate(itertools.pairwise(states)):
            totals[block] += float(_distance(before, after)) * len(before)
    return [total / max(count, 1) for total in totals]


def _distance(before: Tensor, after: Tensor) -> Tensor:
    return (1 - F.cosine_similarity(before.double(), after.double(), dim=-1)).mean()
