"""Calibration data is split: what fits a refit or picks a plan never judges it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from parallelize.data import Samples
from passes.errors import ParallelizeError

MINIMUM = 10


@dataclass(frozen=True)
class Split:
    """Three disjoint sets of samples.

    Attributes:
        fit: normal equations of refits are summed over these.
        held_out: these choose ridges, strengths of refit and the plan.
        judge: these are scored once, at the end, and reported.
    """

    fit: Samples
    held_out: Samples
    judge: Samples


def split(samples: Samples, judge: Samples | None, seed: int) -> Split:
    """Split calibration samples at random; a fifth chooses, and a fifth judges where nothing else does.

    Args:
        samples: calibration data.
        judge: data of its own to judge on, or None.
        seed: the same seed gives the same split.

    Raises:
        ParallelizeError: fewer than 10 samples.
    """
    if len(samples) < MINIMUM:
        raise ParallelizeError(
            f"The inputs hold {len(samples)} samples; a split for fitting, choosing and judging needs {MINIMUM}.",
            "Give more with --inputs, hundreds for a refit.",
        )
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    fifth = len(samples) // 5
    if judge is not None:
        return Split(samples.take(order[fifth:]), samples.take(order[:fifth]), judge)
    parts = order[2 * fifth :], order[:fifth], order[fifth : 2 * fifth]
    return Split(*(samples.take(part) for part in parts))
