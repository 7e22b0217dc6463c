"""What a search for a schedule found."""

from __future__ import annotations

from dataclasses import dataclass

from parallelize.metrics import Scores
from parallelize.models.network import Network
from parallelize.refitting.records import Refitted
from passes.plan import Plan


@dataclass(frozen=True)
class Candidate:
    """A network of a plan that was measured on held-out samples.

    Attributes:
        predicted: sum of the groups' costs; not a number for a plan from elsewhere.
        scores: measured with the refit of the plan.
        refitted: what the refit did to make the network.
    """

    network: Network
    predicted: float
    scores: Scores
    refitted: Refitted

    @property
    def plan(self) -> Plan:
        """The schedule of the network."""
        assert self.network.plan is not None
        return self.network.plan

    @property
    def depth_blocks(self) -> int:
        """Blocks on the longest path through the network's stacks."""
        return self.network.depth_blocks


@dataclass(frozen=True)
class Search:
    """What was found: the chosen plan and all that were measured, deepest first.

    Attributes:
        unfused: for each stack with groups that do not fuse, and so are as deep as serial, its name and the reason.
        forward_passes: over the calibration samples, that the search and its refits took.
    """

    chosen: Candidate
    measured: tuple[Candidate, ...]
    unfused: tuple[tuple[str, str], ...] = ()
    forward_passes: float = 0.0
