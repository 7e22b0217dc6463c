"""A program as one rank of several runs it: its own branches, fused in width, and an all-reduce for each level.

    spread      every level keeps the rank's branches            passes/spread
    fuse        those become wide operations, as ever            passes/fusion
    order       collectives run as on all other ranks            passes/spread/order.py

All ranks give the same program, and find without a word to each other who has what.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import fx

from parallelize.models.program import Program
from passes.registry import FUSION
from passes.runner import PassRecord, run_passes
from passes.spread.order import restore_collectives
from passes.spread.spread_branches import SpreadBranches


@dataclass(frozen=True)
class OfRank:
    """A program of one rank.

    Attributes:
        program: what the rank runs; its collectives need the process group.
        record: of the pass that spread the branches: a line for each level, a reason for what every rank runs.
    """

    program: Program
    record: PassRecord


def of_rank(program: Program, rank: int, size: int, group: str, *, fuses: bool = True) -> OfRank:
    """The part of a program that one rank runs.

    Args:
        program: unfused, the same on all ranks; it is not changed, and shares its weights with the result.
        rank: which.
        size: how many ranks there are.
        group: name of their process group.
        fuses: whether the rank's own branches become wide operations, which have weights of their own.

    Raises:
        ParallelizeError: no level has a branch for each rank.
    """
    module, record = spread_module(program.module, SpreadBranches(rank, size, group), fuses=fuses)
    return OfRank(replace(program, module=module, original=None), record)


def spread_module(
    module: fx.GraphModule, step: SpreadBranches, *, fuses: bool = True
) -> tuple[fx.GraphModule, PassRecord]:
    """The graph of one rank, and what the pass that spread it did."""
    spread, (record, *_) = run_passes(module, [step, *(FUSION if fuses else ())])
    restore_collectives(spread)
    return spread, record
