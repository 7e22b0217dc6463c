"""Which blocks to delete so that a model has a given depth: two ways to pick what stays; `greedy` is a third.

influence    the blocks of largest 1 - cos(x_{i-1}, x_i)                         (ShortGPT, arXiv 2403.03853)
first        the first block of each group of a plan that runs blocks side by side
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, fx
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from parallelize.baselines.depths import Depths
from parallelize.data import Samples
from parallelize.models.states import placeholders, run_segment
from passes.graph.segment import extract
from passes.plan import Level, Plan, StackPlan
from passes.stacks.find import Stack

Kept = tuple[tuple[int, ...], ...]  # for each stack the blocks that stay


def deletion(stacks: Sequence[Stack], kept: Kept) -> Plan:
    """The plan that runs the kept blocks one after another."""
    parts = []
    for stack, blocks in zip(stacks, kept, strict=True):
        levels = tuple(Level(((term,),)) for block in blocks for term in stack.blocks[block])
        parts.append(StackPlan(len(stack.terms), levels))
    return Plan(tuple(parts))


def first_of_each_group(stacks: Sequence[Stack], plan: Plan, depths: Depths) -> Kept | None:
    """The first block of each level that a block begins on; None where that makes another depth."""
    kept = []
    for stack, part, allowed in zip(stacks, plan.stacks, depths.allowed, strict=True):
        begins = {block[0]: number for number, block in enumerate(stack.blocks)}
        starts = [[begins[term] for term in level.terms if term in begins] for level in part.levels]
        blocks = sorted({min(blocks) for blocks in starts if blocks})
        if len(blocks) not in allowed:
            return None
        kept.append(tuple(blocks))
    return tuple(kept)


def most_influential(teacher: fx.GraphModule, stacks: Sequence[Stack], depths: Depths, samples: Samples) -> Kept:
    """What stays when the blocks of least influence go, those of all stacks in one ranking."""
    influence = {
        (number, block): value
        for number, stack in enumerate(stacks)
        for block, value in enumerate(block_influence(teacher, stack, samples))
    }
    kept = [list(range(len(stack.blocks))) for stack in stacks]
    for number, block in sorted(influence, key=lambda place: (influence[place], -place[0], -place[1])):
        if depths.is_too_deep(number, [len(blocks) for blocks in kept]):
            kept[number].remove(block)
    return tuple(map(tuple, kept))


def block_influence(teacher: fx.GraphModule, stack: Stack, samples: Samples) -> list[float]:
    """1 - cos(state before, state after) of every block, averaged over positions and samples."""
    ends = [stack.terms[block[-1]].result for block in stack.blocks]
    segment = extract(teacher, placeholders(teacher), [stack.entry, *ends])
    totals, count = [0.0] * len(ends), 0
    for inputs, number in zip(samples.batches(100), samples.counts(100), strict=True):
        states = [samples.cut(state, number) for state in run_segment(segment, inputs)]
        count += len(states[0])
        for block, (before, after) in enumerate(itertools.pairwise(states)):
            totals[block] += float(_distance(before, after)) * len(before)
    return [total / max(count, 1) for total in totals]


def _distance(before: Tensor, after: Tensor) -> Tensor:
    return (1 - F.cosine_similarity(before.double(), after.double(), dim=-1)).mean()
