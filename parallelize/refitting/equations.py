"""What a ridge is solved from, collected batch by batch: rows while they are fewer than columns, then moments.

Both forms give the same solution. That of the rows is solved with a matrix of rows x rows, that of the moments with one
of columns x columns, so the smaller one is taken; what is kept is at most half as large as the moments.
"""

from __future__ import annotations

import torch
from torch import Tensor

from parallelize.data.buffer import Buffer
from parallelize.refitting.moments import Moments
from parallelize.refitting.rows import Rows

Form = Moments | Rows


class Equations:
    """Features (columns) and targets of rows that come one batch after another."""

    def __init__(self, width: int, targets: int, device: torch.device, buffer: Buffer) -> None:
        """Of no rows; `device` computes, `buffer` keeps."""
        self._form: Form = Rows(width, targets, device, buffer)

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Take in rows: features (rows, columns), targets (rows, targets)."""
        if isinstance(self._form, Rows) and self._form.rows + len(features) >= self._form.width:
            self._form = self._form.moments()
        self._form.add(features, targets)

    @property
    def width(self) -> int:
        """How many columns there are."""
        return self._form.width

    @property
    def target(self) -> float:
        """The sum of the squares of all targets."""
        return self._form.target

    @property
    def squares(self) -> Tensor:
        """(columns,): the sum of the squares of each feature."""
        return self._form.squares

    def columns(self, chosen: slice) -> Form:
        """Those of some of the features, neighbours of each other."""
        part = self._form.columns(chosen)
        return part.moments() if isinstance(part, Rows) and part.rows >= part.width else part
