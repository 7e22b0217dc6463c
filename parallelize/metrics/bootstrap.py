"""How far a number would move with other samples: the BCa bootstrap (Efron 1987).

The samples are drawn again with replacement, as many as there are, 1,000 times. Whatever belongs to one sample, our
output and the teacher's, is drawn together. The draws are the same for every network with as many samples.

The interval lies between two quantiles of the numbers from these draws. For a symmetric number they are 2.5 % and
97.5 %. A divergence is small for most samples and large for few, and a set of samples that lacks those few promises too
much; then both quantiles move up, by what the draws and the influence of each sample tell of the skew:

    level = Phi(z0 + (z0 + z) / (1 - a (z0 + z)))       z = -1.96, 1.96;  z0: bias of the draws;  a: skew of influences
"""

from __future__ import annotations

from statistics import NormalDist

import torch
from torch import Tensor

RESAMPLES = 1000
CONFIDENCE = 0.95
_NORMAL = NormalDist()
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


def interval(value: Tensor, resampled: Tensor, influences: Tensor) -> tuple[float, float]:
    """The 95 % interval of a number; not a number where one of those resampled is none.

    Args:
        value: of all samples, one number.
        resampled: of each draw, (RESAMPLES,).
        influences: how far the value falls where one of the samples is left out, for each of them.
    """
    tail = (1 - CONFIDENCE) / 2
    bias, skew = _bias(value, resampled), _acceleration(influences)
    levels = [_level(_NORMAL.inv_cdf(level), bias, skew) for level in (tail, 1 - tail)]
    low, high = torch.quantile(resampled, torch.tensor(levels, dtype=resampled.dtype)).tolist()
    return low, high


def _level(z: float, bias: float, skew: float) -> float:
    moved = bias + z
    return _NORMAL.cdf(bias + moved / (1 - skew * moved))


def _bias(value: Tensor, resampled: Tensor) -> float:
    """Where the value stands among the draws, as a normal quantile; draws equal to it count half."""
    below = ((resampled < value).double().mean() + (resampled <= value).double().mean()).item() / 2
    least = 1 / (2 * len(resampled))
    return _NORMAL.inv_cdf(min(max(below, least), 1 - least))


def _acceleration(influences: Tensor) -> float:
    """A sixth of the skewness of the influences over the root of their number; 0 where they are all the same."""
    away = influences - influences.mean()
    spread = away.square().sum()
    return float(away.pow(3).sum() / (6 * spread.pow(1.5))) if spread > 0 else 0.0
