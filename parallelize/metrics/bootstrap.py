"""How far a number would move with other samples: percentile bootstrap (Efron 1979).

The samples are drawn again with replacement, as many as there are, 1,000 times. The middle 95 % of the numbers from
these draws is the interval. Whatever belongs to one sample, our output and the teacher's, is drawn together. The draws
are the same for every network with as many samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

RESAMPLES = 1000
CONFIDENCE = 0.95
_SEED = 0
_AT_ONCE = 2**20  # draws held in memory


def resampled_sums(table: Tensor) -> Tensor:
    """Sums over drawn samples.

    Args:
        table: (samples, columns) of float64.

    Returns:
        (RESAMPLES, columns) of float64.
    """
    count = len(table)
    generator = torch.Generator().manual_seed(_SEED)
    step = max(1, _AT_ONCE // count)
    sizes = [min(step, RESAMPLES - start) for start in range(0, RESAMPLES, step)]
    return torch.cat([_times_drawn(size, count, generator) @ table for size in sizes])


def _times_drawn(resamples: int, samples: int, generator: torch.Generator) -> Tensor:
    """How often each sample is drawn, (resamples, samples)."""
    drawn = torch.randint(samples, (resamples, samples), generator=generator)
    times = torch.zeros(resamples, samples, dtype=torch.float64)
    return times.scatter_add_(1, drawn, torch.ones_like(times))


def interval(values: Tensor) -> tuple[float, float]:
    """The middle 95 % of numbers from resamples; not a number where one of them is none."""
    tail = (1 - CONFIDENCE) / 2
    low, high = torch.quantile(values, torch.tensor([tail, 1 - tail], dtype=values.dtype)).tolist()
    return low, high
