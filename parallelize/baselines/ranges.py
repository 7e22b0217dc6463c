"""One contiguous range of blocks run side by side, the range chosen on held-out samples.

    CQIL (arXiv 2404.06709)        groups of p blocks, each block a chain: block form
    LP (arXiv 2502.02790)          pairs of blocks, attention beside attention, then MLP beside MLP: sublayer form
    Painters (arXiv 2407.09298)    one group, each block a chain, and their mean

A range of k blocks in groups of p is ceil(k / p) deep, so a wanted depth leaves p and the first block open. CQIL's p is
tried as the least that will do, the powers of two, and the whole range; the last group takes what is left. The
network of each range is measured with all other blocks serial, and run from the state before the range only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from parallelize.baselines.depths import Depths
from parallelize.baselines.trial import States, Trial, move, states_at
from passes.graph.editing import clone
from passes.plan import Form, Plan, grouped
from passes.schedule.apply_plan import schedule
from passes.schedule.average_branches import schedule_averaged
from passes.stacks.find import Stack

Grouping = tuple[tuple[int, ...], ...]  # all blocks of a stack, in groups


@dataclass(frozen=True)
class RangeMethod:
    """How a range of blocks runs side by side.

    Attributes:
        form: how the blocks of a group lie on levels.
        sizes: "pairs", "any" number of blocks in a group, or "whole": the range is one group.
        mean: whether the chains of a level are averaged, not summed.
    """

    form: Form
    sizes: Literal["pairs", "any", "whole"]
    mean: bool = False


CQIL = RangeMethod("block", "any")
LP = RangeMethod("sublayer", "pairs")
PAINTERS = RangeMethod("block", "whole", mean=True)


def best_ranges(method: RangeMethod, stacks: Sequence[Stack], depths: Depths, trial: Trial) -> Plan | None:
    """The plan with the best range in each stack; None where no range makes the depth."""
    options = [_measured(method, stacks, number, allowed, trial) for number, allowed in enumerate(depths.allowed)]
    groupings = depths.share(options)
    return None if groupings is None else _plan(stacks, groupings, method.form)


def _measured(
    method: RangeMethod, stacks: Sequence[Stack], number: int, allowed: range, trial: Trial
) -> dict[int, tuple[float, Grouping]]:
    """For each allowed depth of one stack the range of least error."""
    stack = stacks[number]
    count = len(stack.blocks)
    best = {count: (0.0, _grouping(count, 0, []))} if count in allowed else {}
    states = states_at(trial.teacher, stack.entry, trial.held_out)
    for first, block in enumerate(stack.blocks):
        for grouping in _groupings(count, first, allowed, method):
            cost = _cost(method, stacks, number, first, grouping, states, trial)
            depth = len(grouping)
            if depth not in best or cost < best[depth][0]:
                best[depth] = (cost, grouping)
        states = move(trial.teacher, stack.terms[block[0]].skip, stack.terms[block[-1]].result, states)
    return best


def _cost(
    method: RangeMethod,
    stacks: Sequence[Stack],
    number: int,
    first: int,
    grouping: Grouping,
    states: States,
    trial: Trial,
) -> float:
    """The error of the network whose stack `number` runs like this, from the states before block `first` on."""
    groupings = [_grouping(len(stack.blocks), 0, []) for stack in stacks]
    groupings[number] = grouping
    plan = _plan(stacks, groupings, method.form)
    module = clone(trial.teacher)
    sites = schedule_averaged(module, plan) if method.mean else schedule(module, plan)
    return trial.error_from(module, sites[number].levels[first * stacks[number].period].entry, states)


def _plan(stacks: Sequence[Stack], groupings: Sequence[Grouping], form: Form) -> Plan:
    parts = []
    for stack, grouping in zip(stacks, groupings, strict=True):
        groups = [[stack.blocks[block] for block in group] for group in grouping]
        parts.append(grouped(len(stack.terms), groups, form))
    return Plan(tuple(parts))


def _groupings(count: int, first: int, allowed: range, method: RangeMethod) -> Iterator[Grouping]:
    """The groupings of `count` blocks, of an allowed depth, whose range begins at block `first`."""
    for saved in (count - depth for depth in allowed if depth < count):
        for size in _sizes(count, saved, method):
            groups = _groups(saved, size)
            if first + sum(groups) <= count:
                yield _grouping(count, first, groups)


def _sizes(count: int, saved: int, method: RangeMethod) -> list[int]:
    """The sizes of groups to try for a range that saves that many blocks of depth."""
    if method.sizes == "pairs":
        return [2]
    whole = saved + 1
    if method.sizes == "whole":
        return [whole]
    least = next(size for size in range(2, whole + 1) if sum(_groups(saved, size)) <= count)
    return sorted({least, whole, *(2**power for power in range(1, count.bit_length()) if least <= 2**power <= whole)})


def _groups(saved: int, size: int) -> list[int]:
    """Sizes of the groups of a range: groups of `size`, and a last one that saves the rest."""
    full, rest = divmod(saved, size - 1)
    return [size] * full + [rest + 1] * (rest > 0)


def _grouping(count: int, first: int, groups: Sequence[int]) -> Grouping:
    """All blocks in groups: the range from block `first` as given, the others alone."""
    blocks = iter(range(count))
    alone = count - first - sum(groups)
    sizes = [*[1] * first, *groups, *[1] * alone]
    return tuple(tuple(itertools.islice(blocks, size)) for size in sizes)
