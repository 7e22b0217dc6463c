"""Ranges of blocks replaced by a linear map of the state (TOAST, arXiv 2410.04941).

    x_j  ~  A x_i + b        minimise |x_i + D x_i + b - x_j|^2 + ridge |D|^2,    A = I + D

over all positions of the samples, in closed form, with the ridge of least error on held-out samples; a large ridge is
plain deletion. The map acts on the state itself, not on a norm of it; where the state holds channels before positions,
as convolutional networks do, it mixes the channels of each position.

Which ranges: every range of blocks is measured alone, as a whole network run from the state behind it. Disjoint ranges
that leave the wanted depth at the smallest sum of errors are found by dynamic programming; they are measured together,
and against the best single range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import fx

from parallelize.baselines.depths import Depths
from parallelize.baselines.trial import States, Trial, move, states_at
from parallelize.data import Samples
from parallelize.machine.torch_settings import whole_float32
from parallelize.refitting.equations import Equations
from parallelize.refitting.ridge import choose
from passes.runner import run_passes
from passes.schedule.map_blocks import LinearMap, MapBlocks, MappedRange, range_ends
from passes.stacks.channels import channel_axis
from passes.stacks.find import Stack, find_stacks

Ranges = tuple[tuple[int, int], ...]  # first and last block of each
Costs = Mapping[tuple[int, int], float]


@whole_float32()
def best_maps(stacks: Sequence[Stack], depths: Depths, fit: Samples, trial: Trial) -> tuple[Ranges, ...] | None:
    """For each stack the ranges to replace; None where none make the depth.

    Args:
        stacks: of `trial.teacher`.
        depths: wanted, in blocks that are kept.
        fit: samples that the maps are fitted on.
        trial: measures on the held-out samples, which choose the ridges too.
    """
    costs = [
        _costs(stack, len(stack.blocks) - allowed.start, fit, trial)
        for stack, allowed in zip(stacks, depths.allowed, strict=True)
    ]
    proposals = []
    for several in (True, False):
        options = [
            {
                depth: option
                for depth, option in cheapest(len(stack.blocks), cost, several=several).items()
                if depth in allowed
            }
            for stack, cost, allowed in zip(stacks, costs, depths.allowed, strict=True)
        ]
        proposals.append(depths.share(options))
    found = [ranges for ranges in dict.fromkeys(proposals) if ranges is not None]
    if len(found) < 2:
        return found[0] if found else None
    return min(found, key=lambda ranges: trial.error(replaced(trial.teacher, ranges, fit, trial.held_out)))


@whole_float32()
def replaced(teacher: fx.GraphModule, ranges: Sequence[Ranges], fit: Samples, held_out: Samples) -> fx.GraphModule:
    """The network with ranges of blocks of each stack replaced by linear maps, each fitted on the teacher's states."""
    maps = []
    for number, (stack, chosen) in enumerate(zip(find_stacks(teacher).stacks, ranges, strict=True)):
        for first, last in chosen:
            before, after = range_ends(stack, first, last)
            states = [(states_at(teacher, before, part), states_at(teacher, after, part)) for part in (fit, held_out)]
            found = fit_map(*states[0], *states[1], channel_axis(stack))
            maps.append(MappedRange(number, first, last, found))
    return run_passes(teacher, [MapBlocks(tuple(maps))])[0]


def fit_map(fit: States, fit_after: States, held_out: States, held_out_after: States, axis: int) -> LinearMap:
    """The map from states to later states of the same samples."""
    fitting, judging = _equations(fit, fit_after, axis), _equations(held_out, held_out_after, axis)
    solution = choose(fitting.columns(slice(None)), judging.columns(slice(None))).solution.part(0, fitting.width)
    change, bias = solution[:-1].T, solution[-1]
    return LinearMap(torch.eye(len(bias), dtype=torch.float64, device=bias.device) + change, bias, axis)


def _equations(before: States, after: States, axis: int) -> Equations:
    equations: Equations | None = None
    for old, new in zip(before.values, after.values, strict=True):
        rows, aims = (value.double().movedim(axis, -1).flatten(0, -2) for value in (old, new))
        equations = equations or Equations(rows.shape[1] + 1, aims.shape[1], rows.device, before.samples.buffer)
        equations.add(torch.cat([rows, rows.new_ones(len(rows), 1)], 1), aims - rows)
    assert equations is not None
    return equations


def _costs(stack: Stack, most: int, fit: Samples, trial: Trial) -> dict[tuple[int, int], float]:
    """The error of every network in which one range of at most `most` blocks is replaced."""
    costs: dict[tuple[int, int], float] = {}
    axis, count = channel_axis(stack), len(stack.blocks)
    start = [states_at(trial.teacher, stack.entry, part) for part in (fit, trial.held_out)]
    for first in range(count):
        after = following = start
        for last in range(first, min(first + most, count)):
            after = [move(trial.teacher, *range_ends(stack, last, last), states) for states in after]
            following = after if last == first else following
            found = fit_map(start[0], after[0], start[1], after[1], axis)
            node = range_ends(stack, first, last)[1]
            costs[first, last] = trial.error_from(trial.teacher, node, start[1].map(found))
        start = following
    return costs


def cheapest(count: int, costs: Costs, *, several: bool) -> dict[int, tuple[float, Ranges]]:
    """For each number of kept blocks the disjoint ranges of the smallest sum of costs, neighbours made one.

    Args:
        count: blocks in all.
        costs: of replacing each range.
        several: whether more than one range may be replaced.
    """
    best: list[dict[int, tuple[float, Ranges]]] = [{0: (0.0, ())}]
    for stop in range(1, count + 1):
        row = {kept + 1: found for kept, found in best[stop - 1].items()}
        for start in range(stop):
            if (start, stop - 1) not in costs:
                continue
            for kept, (cost, ranges) in best[start].items():
                total = cost + costs[start, stop - 1]
                if (several or not ranges) and (kept not in row or total < row[kept][0]):
                    row[kept] = (total, (*ranges, (start, stop - 1)))
        best.append(row)
    return {kept: (cost, _merged(ranges)) for kept, (cost, ranges) in best[count].items()}


def _merged(ranges: Ranges) -> Ranges:
    merged: list[tuple[int, int]] = []
    for first, last in ranges:
        joins = bool(merged) and merged[-1][1] == first - 1
        start = merged.pop()[0] if joins else first
        merged.append((start, last))
    return tuple(merged)
