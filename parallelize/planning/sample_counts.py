"""How many samples a choice needs: as many as hold so many positions of the state, for that is what they cost.

Positions are what an affine refit is fitted on, and a few for each channel of the state determine it. A forward pass
takes as much time for one sample of 200 positions as for four of 50, so of longer samples fewer are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from parallelize.models.states import example_size
from passes.stacks.channels import channel_axis
from passes.stacks.find import Stack

ROWS = 12_800  # positions of the state that an affine refit is fitted on at most
ROWS_A_CHANNEL = 32  # of these for each channel of the state, which are enough
JUDGED_ROWS = 6_400  # positions that networks are compared on
LEAST_SAMPLES, MOST_SAMPLES = 16, 256


def sample_count(stacks: Sequence[Stack]) -> int:
    """How many samples hold about ROWS positions of the widest state."""
    return min(MOST_SAMPLES, max(LEAST_SAMPLES, ROWS // _most_positions(stacks)))


def fit_count(stacks: Sequence[Stack]) -> int:
    """How many samples an affine refit needs in the stack that needs most, `sample_count` at most."""
    wanted = max(-(-ROWS_A_CHANNEL * _channels(stack) // _positions(stack)) for stack in stacks)
    return min(sample_count(stacks), max(LEAST_SAMPLES, wanted))


def judged_count(stacks: Sequence[Stack], most: int) -> int:
    """How many samples hold about JUDGED_ROWS positions of the widest state, `most` at most."""
    return min(most, max(LEAST_SAMPLES, JUDGED_ROWS // _most_positions(stacks)))


def _most_positions(stacks: Sequence[Stack]) -> int:
    return max(map(_positions, stacks))


def _channels(stack: Stack) -> int:
    return example_size(stack.entry.meta["val"].shape[channel_axis(stack)])


def _positions(stack: Stack) -> int:
    """Positions of the state in one sample."""
    sizes = [example_size(size) for size in stack.entry.meta["val"].shape]
    del sizes[channel_axis(stack)]
    return max(1, prod(sizes[1:]))
