"""Second moments of rows, for more rows than columns: F'F, F'R and R'R are kept, and no row.

    (F'F + lambda diag(s)) D = F'R

Products of at most CHUNK rows are of the rows' own precision, and float64 only adds them up: many GPUs multiply in it
at 1/64 of the speed. Float32 costs about 1e-6 of F'F, far below the least ridge, also where it is added up row by row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from parallelize.data.buffer import Buffer
from parallelize.refitting.blocks import Symmetric, Tall, cuts, ridged
from parallelize.refitting.solution import Solution
from parallelize.refitting.squares import sum_of_squares

CHUNK = 2**14  # rows whose products are added up in their own precision
_BLOCK = 256  # columns whose products with earlier ones are not computed


class Moments:
    """Second moments of features (columns) and targets.

    Attributes:
        width: how many columns.
        targets: how many of them.
        target: the sum of the squares of R.
        rows: how many rows were taken in.
    """

    def __init__(self, width: int, targets: int, device: torch.device, buffer: Buffer | None = None) -> None:
        """Those of no rows; `device` computes them, `buffer` keeps them."""
        self.width, self.targets, self.device = width, targets, device
        self.buffer = Buffer() if buffer is None else buffer
        self.target, self.rows = 0.0, 0
        self.cuts = cuts(width)
        self.features = Symmetric(self.buffer)
        for j, right in enumerate(self.cuts):
            for i, left in enumerate(self.cuts[: j + 1]):
                self.features[i, j] = self._zeros(_size(left), _size(right))
        self.cross = Tall([self.buffer.keep(self._zeros(_size(cut), targets)) for cut in self.cuts])

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Take in rows: features (rows, columns), targets (rows, targets)."""
        precision = torch.promote_types(features.dtype, torch.float32)
        wide, aim = (value.to(self.device, precision) for value in (features, targets))
        for start in range(0, len(wide), CHUNK):
            self._add(wide[start : start + CHUNK], aim[start : start + CHUNK])
        self.target += sum_of_squares(aim)
        self.rows += len(wide)

    def _add(self, wide: Tensor, aim: Tensor) -> None:
        for i, j in self.features:
            left, right, total = wide[:, self.cuts[i]], wide[:, self.cuts[j]], self.features[i, j]
            if i != j:
                total += left.T @ right
            for start in range(0, left.shape[1] if i == j else 0, _BLOCK):
                total[start : start + _BLOCK, start:] += left[:, start : start + _BLOCK].T @ right[:, start:]
            self.features[i, j] = total
        for number, cut in enumerate(self.cuts):
            total = self.cross[number]
            total += wide[:, cut].T @ aim
            self.cross[number] = total

    @property
    def squares(self) -> Tensor:
        """(columns,): the sum of the squares of each feature."""
        return torch.cat([self.features[number, number].diagonal() for number in range(len(self.cuts))])

    def columns(self, chosen: slice) -> Moments:
        """The moments of some of the features, neighbours of each other."""
        first, last, _ = chosen.indices(self.width)
        if (first, last) == (0, self.width):
            return self
        part = Moments(last - first, self.targets, self.device, self.buffer)
        for place in part.features:
            block = part.features[place]
            for ours in self.features:
                _copy(block, [part.cuts[n] for n in place], self.features[ours], [self.cuts[n] for n in ours], first)
            part.features[place] = block
        for number, cut in enumerate(part.cuts):
            part.cross[number] = self.cross.part(first + cut.start, first + cut.stop)
        part.target, part.rows = self.target, self.rows
        return part

    def lack(self, solution: Solution) -> float:
        """|F D - R|^2 on these rows."""
        total = self.target
        if not isinstance(solution, SolvedFor):
            solution = SolvedFor(Tall.keep((solution.part(cut.start, cut.stop) for cut in self.cuts), self.buffer))
        for i, left in enumerate(self.cuts):
            ours = solution.part(left.start, left.stop)
            total -= 2 * float((ours * self.cross[i]).sum())
            total += float((ours * (self.features.whole(i, i) @ ours)).sum())
            for j, right in enumerate(self.cuts[i + 1 :], i + 1):
                theirs = solution.part(right.start, right.stop)
                total += 2 * float((ours * (self.features[i, j] @ theirs)).sum())
        return max(0.0, total)

    def _zeros(self, rows: int, columns: int) -> Tensor:
        return torch.zeros(rows, columns, dtype=torch.float64, device=self.device)


class FromMoments:
    """Solves for one ridge after another; each takes a factorisation, columns^3 / 3."""

    def __init__(self, moments: Moments, *, constant: bool) -> None:
        self.moments = moments
        scale = (moments.squares / max(moments.rows, 1)).clamp_min(0).sqrt()
        self.scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        self.penalised = torch.ones_like(scale)
        self.penalised[-1] = 1 if not constant else 0

    def __call__(self, ridge: float) -> Solution:
        """The solution for a ridge."""
        moments, rows = self.moments, max(self.moments.rows, 1)
        scales = [self.scale[cut] for cut in moments.cuts]
        penalties = [ridge * self.penalised[cut] for cut in moments.cuts]
        found = ridged(
            len(scales),
            lambda i, j: moments.features.whole(i, j) / (scales[i][:, None] * scales[j] * rows),
            lambda number, jitter: penalties[number] + jitter,
            moments.buffer,
        )
        right = Tall.keep(
            (moments.cross[n] / (scale[:, None] * rows) for n, scale in enumerate(scales)), moments.buffer
        )
        found.solve(right)
        for number, scale in enumerate(scales):
            right[number] = right[number] / scale[:, None]
        return SolvedFor(right)


class SolvedFor(Solution):
    """A solution that is there."""

    def __init__(self, blocks: Tall) -> None:
        self._blocks = blocks

    def part(self, start: int, stop: int) -> Tensor:
        """Some of its rows."""
        return self._blocks.part(start, stop)


def _size(cut: slice) -> int:
    return int(cut.stop - cut.start)


def _copy(block: Tensor, at: list[slice], theirs: Tensor, there: list[slice], first: int) -> None:
    """Copy into a block what another one has of it; places of ours are `first` further on in the other matrix."""
    starts = [max(ours.start + first, other.start) for ours, other in zip(at, there, strict=True)]
    stops = [min(ours.stop + first, other.stop) for ours, other in zip(at, there, strict=True)]
    if any(start >= stop for start, stop in zip(starts, stops, strict=True)):
        return
    here = tuple(slice(a - first - o.start, b - first - o.start) for a, b, o in zip(starts, stops, at, strict=True))
    from_ = tuple(slice(a - o.start, b - o.start) for a, b, o in zip(starts, stops, there, strict=True))
    block[here] = theirs[from_]
