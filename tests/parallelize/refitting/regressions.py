"""Small regressions, and what the textbook says of them."""

from __future__ import annotations

import torch
from torch import Tensor

from parallelize.data.buffer import Buffer
from parallelize.refitting.blocks import Tall, cuts
from parallelize.refitting.moments import Moments, SolvedFor
from parallelize.refitting.ridge import solver
from parallelize.refitting.rows import Rows
from parallelize.refitting.solution import Solution

CPU = torch.device("cpu")
FORMS = (Moments, Rows)


def data(rows: int, columns: int, targets: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features of very different sizes with a constant last, and targets that depend on them with noise."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    features = features * torch.logspace(-3, 3, columns, dtype=torch.float64)
    features[:, -1] = 1
    weight = torch.randn(columns, targets, generator=generator, dtype=torch.float64)
    weight = weight / torch.logspace(-3, 3, columns, dtype=torch.float64)[:, None]
    return features, features @ weight + torch.randn(rows, targets, generator=generator, dtype=torch.float64)


def collected(form: type[Moments | Rows], features: Tensor, targets: Tensor, batch: int = 0) -> Moments | Rows:
    """The regression in one form, from batches of so many rows or from all at once."""
    made = form(features.shape[1], targets.shape[1], CPU, Buffer())
    for part, aim in zip(features.split(batch or len(features)), targets.split(batch or len(targets)), strict=True):
        made.add(part, aim)
    return made


def moments_of(features: Tensor, targets: Tensor) -> Moments:
    made = collected(Moments, features, targets)
    assert isinstance(made, Moments)
    return made


def solved(form: Moments | Rows, ridge: float, *, constant: bool = True) -> Tensor:
    """The whole solution (columns, targets)."""
    return solver(form, constant=constant)(ridge).part(0, form.width)


def given(solution: Tensor) -> Solution:
    """A solution that is there."""
    return SolvedFor(Tall.keep((solution[cut] for cut in cuts(len(solution))), Buffer()))


def gram(moments: Moments) -> Tensor:
    """F'F."""
    numbers = range(len(moments.cuts))
    return torch.cat([torch.cat([moments.features.whole(i, j) for j in numbers], 1) for i in numbers])


def cross(moments: Moments) -> Tensor:
    """F'R."""
    return moments.cross.part(0, moments.width)


def textbook(features: Tensor, targets: Tensor, penalty: float, *, constant: bool = True) -> Tensor:
    """(F'F + lambda diag(s))^-1 F'R with s_j the sum of squares of column j, and 0 for the constant."""
    sizes = features.square().sum(0)
    sizes[-1] *= 0 if constant else 1
    return torch.linalg.solve(features.T @ features + penalty * torch.diag(sizes), features.T @ targets)
