"""How fast a healing learns: one cycle of the learning rate, its peak cut where the loss shows that it is too high.

    a rise over the first tenth of the run, then a cosine
    the last losses are WORSE times the first one, or the held-out error is WORSE times the best one
        ->  peak = the rate at that moment / CUT, from the best weights on

A rewritten network adds many terms up on one level, and how they respond to a step differs between models by orders of
magnitude: a rate that heals one tears another apart. The rise is slow enough to notice before that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

WARM_UP = 0.1  # share of the run in which the learning rate rises
LOWEST = 1e-3  # of the peak, where the cycle begins and ends
WINDOW = 5  # losses that are averaged
WORSE = 2.0
CUT = 2.0


def one_cycle(share: float) -> float:
    """The learning rate as a share of its peak, from the share of the run that is used up: a rise, then a cosine."""
    if share < WARM_UP:
        return LOWEST + (1 - LOWEST) * share / WARM_UP
    return LOWEST + (1 - LOWEST) * (1 + math.cos(math.pi * (min(share, 1.0) - WARM_UP) / (1 - WARM_UP))) / 2


@dataclass
class Pace:
    """The learning rate, and the losses that it is judged by.

    Attributes:
        peak: the highest learning rate of the cycle.
        first: the first loss of the run, before anything was learnt.
        last: the losses since the last cut, at most WINDOW.
    """

    peak: float
    first: float | None = None
    last: list[float] = field(default_factory=list)

    def rate(self, share: float) -> float:
        """The learning rate when this share of the run is used up."""
        return self.peak * one_cycle(share)

    def is_too_fast(self, loss: float, share: float) -> bool:
        """Take in the loss of a step; true where the peak was cut, and learning should go on from the best weights."""
        if self.first is None:
            self.first = loss
        self.last = [*self.last, loss][-WINDOW:]
        if len(self.last) < WINDOW or sum(self.last) <= WORSE * WINDOW * self.first:
            return False
        self.cut(share)
        return True

    def is_far_off(self, error: float, best: float, share: float) -> bool:
        """The same for the held-out error of an evaluation, beside the best one."""
        if error <= WORSE * best:
            return False
        self.cut(share)
        return True

    def cut(self, share: float) -> None:
        """Halve the peak, or what has been reached of it."""
        self.peak = (self.rate(share) if share < WARM_UP else self.peak) / CUT
        self.last = []
