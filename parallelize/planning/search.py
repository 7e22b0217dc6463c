"""What a search for a schedule is asked for, and what it found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from parallelize.metrics import Scores
from parallelize.refitting.records import Refitted
from passes.errors import ParallelizeError
from passes.plan import REFITS, Plan, Refit


@dataclass(frozen=True)
class PlannerOptions:
    """How to search.

    Attributes:
        refit: the strongest refit a level may get.
        seed: of the split of the data, part of the plans.
        time_limit: seconds after which no more groups and neighbours are measured; None measures all.
        longest_group: blocks of a group at most; None is all for stacks of up to 16 blocks, else 4.
        memory: file that keeps what was measured.
        refine: neighbours of the best schedule of a depth that are measured as whole networks, at most.
    """

    refit: Refit = "full"
    seed: int = 0
    time_limit: float | None = None
    longest_group: int | None = None
    memory: Path | None = None
    refine: int = 0

    def __post_init__(self) -> None:
        """Refuse what no search can do, before it has measured for minutes.

        Raises:
            ParallelizeError: an unknown refit, a time that is no number, groups of less than one block, or less than
                no neighbours.
        """
        if self.refit not in REFITS:
            raise ParallelizeError(f"There is no refit {self.refit!r}.", f"Use one of {', '.join(REFITS)}.")
        if self.time_limit is not None and not self.time_limit >= 0:
            raise ParallelizeError(f"A search cannot take {self.time_limit} seconds.", "Give a number of zero or more.")
        if self.longest_group is not None and self.longest_group < 1:
            raise ParallelizeError(f"No group has {self.longest_group} blocks.", "Give a number of one or more.")
        if self.refine < 0:
            raise ParallelizeError(f"A search cannot measure {self.refine} neighbours.", "Give a number of 0 or more.")


@dataclass(frozen=True)
class Candidate:
    """A plan that was measured as a whole network on held-out samples.

    Attributes:
        depth_blocks: blocks on the critical path.
        predicted: sum of the groups' costs; not a number for a plan from elsewhere.
        scores: measured with the refit of the plan.
        refitted: the network that was measured.
    """

    plan: Plan
    depth_blocks: int
    predicted: float
    scores: Scores
    refitted: Refitted


@dataclass(frozen=True)
class Search:
    """What was found: the chosen plan and all that were measured, deepest first.

    Attributes:
        unfused: for each stack with groups that do not fuse, and so are as deep as serial, its name and the reason.
    """

    chosen: Candidate
    measured: tuple[Candidate, ...]
    unfused: tuple[tuple[str, str], ...] = ()
