"""What a search for a schedule found."""

from __future__ import annotations

from dataclasses import dataclass

from parallelize.metrics import Scores
from parallelize.refitting.records import Refitted
from passes.plan import Plan


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
