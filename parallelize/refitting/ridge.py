"""Ridge regression by streaming normal equations, summed up in float64.

    minimise  |F D - R|^2 + lambda sum_j s_j |D_j|^2,      s_j = sum of squares of feature j

Rows come in batches and only F'F, F'R and R'R are kept, so memory does not grow with the data. Products of at most
CHUNK rows are of the rows' own precision, and float64 only adds them up: many GPUs multiply in it at 1/64 of the speed.
Float32 costs about 1e-6 of F'F, far below the least ridge, also where it is added up row by row. The ridge is scaled by
each feature's own second moment, which makes lambda a pure number. The last column may be the constant, which is not
penalised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RIDGES = (1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
CHUNK = 2**14  # rows whose products are added up in their own precision
_BLOCK = 512


@dataclass
class Moments:
    """Second moments of features (columns) and targets.

    Attributes:
        features: F'F (columns, columns), float64; only the upper triangle is kept.
        cross: F'R (columns, targets), float64.
        target: the sum of the squares of R.
        rows: how many rows were taken in.
    """

    features: Tensor
    cross: Tensor
    target: float = 0.0
    rows: int = 0

    @classmethod
    def none(cls, columns: int, targets: int, device: torch.device) -> Moments:
        """Those of no rows; `device` computes and keeps them."""
        features = torch.zeros(columns, columns, dtype=torch.float64, device=device)
        return cls(features, torch.zeros(columns, targets, dtype=torch.float64, device=device))

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Take in rows: features (rows, columns), targets (rows, targets)."""
        precision = torch.promote_types(features.dtype, torch.float32)
        wide, aim = (value.to(self.features.device, precision) for value in (features, targets))
        for start in range(0, len(wide), CHUNK):
            self._add(wide[start : start + CHUNK], aim[start : start + CHUNK])
        self.target += float(aim.double().square().sum())
        self.rows += len(wide)

    def _add(self, wide: Tensor, aim: Tensor) -> None:
        for start in range(0, wide.shape[1], _BLOCK):
            stop = start + _BLOCK
            self.features[start:stop, start:] += wide[:, start:stop].T @ wide[:, start:]
        self.cross += wide.T @ aim

    def columns(self, chosen: slice) -> Moments:
        """The moments of some of the features."""
        return Moments(self.features[chosen, chosen], self.cross[chosen], self.target, self.rows)

    def symmetric(self) -> Tensor:
        """F'F with both triangles."""
        upper = self.features.triu()
        return upper + upper.triu(1).T

    def error(self, solution: Tensor) -> float:
        """|F D - R|^2 on these rows."""
        quadratic = (solution * (self.symmetric() @ solution)).sum()
        return max(0.0, float(self.target - 2 * (solution * self.cross).sum() + quadratic))


def solve(moments: Moments, ridges: Sequence[float] = RIDGES, *, constant: bool = True) -> list[Tensor]:
    """The solution D (columns, targets) for each ridge; `constant` says whether the last column is the constant."""
    return list(map(_solver(moments, constant), ridges))


def _solver(moments: Moments, constant: bool) -> Callable[[float], Tensor]:
    """What solves for one ridge after another; each takes a factorisation, n^3 / 3."""
    gram = moments.symmetric()
    scale = (gram.diagonal() / max(moments.rows, 1)).clamp_min(0).sqrt()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    normal = gram / (scale[:, None] * scale * max(moments.rows, 1))
    right = moments.cross / (scale[:, None] * max(moments.rows, 1))
    penalty = torch.ones_like(scale)
    penalty[-1] = 0 if constant else 1
    return lambda ridge: torch.cholesky_solve(right, _factor(normal, ridge * penalty)) / scale[:, None]


def _factor(normal: Tensor, penalty: Tensor) -> Tensor:
    """The Cholesky factor of a matrix that rounding may have left short of positive."""
    factor: Tensor
    for jitter in (1e-12, 1e-7, 1e-5, 1e-3):
        factor, failed = torch.linalg.cholesky_ex(normal + torch.diag(penalty + jitter))
        if not failed:
            break
    return factor


@dataclass(frozen=True, eq=False)
class Choice:
    """The best ridge on held-out rows, D (columns, targets), and the relative error |F D - R|^2 / |R|^2 there."""

    ridge: float
    solution: Tensor
    error: float


def choose(fit: Moments, held_out: Moments, ridges: Sequence[float] = RIDGES, *, constant: bool = True) -> Choice:
    """Pick the ridge whose solution on `fit` is best on `held_out`.

    From the middle of the ridges one goes to the side that is better, as long as it gets better: the error on held-out
    rows falls and rises once over the ridges, and half of the factorisations are spared.
    """
    scale, solution = max(held_out.target, 1e-300), _solver(fit, constant)

    def tried(place: int) -> Choice:
        found = solution(ridges[place])
        return Choice(ridges[place], found, held_out.error(found) / scale)

    middle = len(ridges) // 2
    best = start = tried(middle)
    for side in (range(middle - 1, -1, -1), range(middle + 1, len(ridges))):
        for place in side:
            choice = tried(place)
            if choice.error >= best.error:
                break
            best = choice
        if best is not start:
            break
    return best
