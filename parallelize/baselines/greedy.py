"""Greedy deletion of blocks: again and again the block goes whose removal costs least (SLEB, arXiv 2402.09025).

SLEB measures all blocks anew after each removal, on the network that is left. Here that is done by **lazy evaluation**
(Minoux 1978): without a block, the removal of another one mostly costs more than before, so what it cost before tells
which to measure first. The cheapest one is measured anew until it stays the cheapest, and goes. Where the cost of a
block that was not measured fell below that, the choice differs from SLEB's.

The states before blocks are kept, as long as no block before them went, and of each removal only the
rest of the network is run. A first round of k blocks runs k^2 / 2 of them, and a later one seldom more than 2 k.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import fx

from parallelize.baselines.block_deletion import Kept, deletion
from parallelize.baselines.depths import Depths
from parallelize.baselines.trial import States, Trial, move, states_at
from passes.schedule.apply_plan import rewrite
from passes.stacks.find import Stack

GREEDY_SAMPLES = 128  # that removals are measured on, fewer where they are long
KEPT_BYTES = 2**30  # of states before blocks; beyond that they are computed again from earlier ones

Place = tuple[int, int]  # a stack, and one of its blocks


def least_costly(stacks: Sequence[Stack], depths: Depths, trial: Trial) -> Kept:
    """What stays when the block whose removal costs least goes, again and again."""
    rest = _Rest(stacks, trial, tuple(tuple(range(len(stack.blocks))) for stack in stacks))
    costs: dict[Place, float] = {}  # as they were measured last
    while too_deep := [n for n in range(len(stacks)) if depths.is_too_deep(n, [len(blocks) for blocks in rest.kept])]:
        places = [(number, block) for number in too_deep for block in rest.kept[number]]
        measured: set[Place] = set()
        while (least := min(places, key=lambda place: costs.get(place, -math.inf))) not in measured:
            costs[least] = rest.cost_without(*least)
            measured.add(least)
        rest = rest.without(*least)
    return rest.kept


class _Rest:
    """What is left of a network, and what it costs to take one more block out of it."""

    def __init__(
        self, stacks: Sequence[Stack], trial: Trial, kept: Kept, before: dict[Place, States] | None = None
    ) -> None:
        """Nothing is run yet; `before` are states before blocks as far as they are known."""
        self.stacks, self.trial, self.kept = stacks, trial, kept
        self.before = {} if before is None else before
        self.module, self.sites = rewrite(trial.teacher, deletion(stacks, kept))

    def without(self, number: int, block: int) -> _Rest:
        """With one block less. The states before it are those before the one that follows it now."""
        blocks = self.kept[number]
        left = tuple(other for other in blocks if other != block)
        kept = (*self.kept[:number], left, *self.kept[number + 1 :])
        before = {(n, b): held for (n, b), held in self.before.items() if n == number and b < block}
        follower = next((other for other in left if other > block), None)
        if follower is not None and (number, block) in self.before:
            before[number, follower] = self.before[number, block]
        return _Rest(self.stacks, self.trial, kept, before)

    def cost_without(self, number: int, block: int) -> float:
        """The error of the network without one of its blocks."""
        _, result = self._ends(number, block)
        return self.trial.error_from(self.module, result, self._states(number, block))

    def _states(self, number: int, block: int) -> States:
        """The states before a block, from those before the nearest earlier one that are known."""
        blocks = self.kept[number]
        place = blocks.index(block)
        near = next((at for at in range(place, -1, -1) if (number, blocks[at]) in self.before), None)
        if near is None:
            near, states = 0, states_at(self.module, self._ends(number, blocks[0])[0], self.trial.held_out)
            self._keep(number, blocks[0], states)
        else:
            states = self.before[number, blocks[near]]
        for passed, reached in itertools.pairwise(blocks[near : place + 1]):
            states = move(self.module, *self._ends(number, passed), states)
            self._keep(number, reached, states)
        return states

    def _keep(self, number: int, block: int, states: States) -> None:
        if sum(held.nbytes for held in self.before.values()) + states.nbytes <= KEPT_BYTES:
            self.before[number, block] = states

    def _ends(self, number: int, block: int) -> tuple[fx.Node, fx.Node]:
        """The states before and after a block."""
        levels, period = self.sites[number].levels, self.stacks[number].period
        first = self.kept[number].index(block) * period
        return levels[first].entry, levels[first + period - 1].result
