"""Which rank computes which units: the largest first, each to the rank that has the least work by then.

Of n units no rank then has more than 4/3 - 1/(3 p) times the work that the best assignment to p ranks would give it
(Graham 1969, bounds on multiprocessing timing anomalies).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Assignment:
    """The ranks of some units.

    Attributes:
        owners: for each unit its rank.
        loads: for each rank its work.
    """

    owners: tuple[int, ...]
    loads: tuple[int, ...]

    @property
    def used(self) -> int:
        """Ranks that have work."""
        return sum(load > 0 for load in self.loads)

    @property
    def share(self) -> float:
        """The work of the busiest rank over all work."""
        return max(self.loads) / sum(self.loads)


def assigned(works: Sequence[int], size: int) -> Assignment:
    """Assign units to ranks; equal arguments give equal assignments on every rank.

    Args:
        works: of the units, positive.
        size: how many ranks.
    """
    owners, loads = [0] * len(works), [0] * size
    for number in sorted(range(len(works)), key=lambda number: -works[number]):
        owners[number] = min(range(size), key=loads.__getitem__)
        loads[owners[number]] += works[number]
    return Assignment(tuple(owners), tuple(loads))
