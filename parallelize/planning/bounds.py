"""What a group of blocks costs at least, from what is known of other groups.

A block does a group no less harm the larger the group is, so costs c of groups of neighbours are supermodular,

    c(i..k) >= c(i..b) + c(a..k) - c(a..b)          i < a, b < k, a <= b + 1

where a block alone, or none, costs nothing. Of the groups of trained networks this holds but for noise. A bound only
says what is measured next and what need not be; whatever is chosen has been measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from parallelize.planning.forms import Span


def least_costs(count: int, known: Mapping[Span, float], longest: int) -> dict[Span, float]:
    """For every group of blocks 0..count-1 its cost where it is known, else the least that it can be.

    Args:
        count: blocks.
        known: costs by first and last block.
        longest: blocks of a group at most.
    """
    least = {(block, block): known.get((block, block), 0.0) for block in range(count)}
    for size in range(2, min(count, longest) + 1):
        for first in range(count - size + 1):
            span = first, first + size - 1
            least[span] = known[span] if span in known else _least(least, known, *span)
    return least


def _least(least: Mapping[Span, float], known: Mapping[Span, float], first: int, last: int) -> float:
    """The largest of the bounds by two groups whose common blocks have a cost that is known."""
    found = 0.0
    for left in range(first, last):
        for right in range(first + 1, left + 2):
            common = 0.0 if right >= left else known.get((right, left))
            if common is not None and common < inf:
                found = max(found, least[first, left] + least[right, last] - common)
    return found
