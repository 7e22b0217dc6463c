"""Rows themselves, for fewer rows than columns: the dual form, whose matrix has a row for each row.

    D = S^-1 F'a      (F S^-1 F' + lambda I) a = R       S = diag(s)

is the same solution as that of (F'F + lambda S) D = F'R, exactly, with the kernel F S^-1 F' in the place of F'F. A
constant that is not penalised is the same as F and R less their means over the rows, the constant being

    c = mean(R) - mean(F) D

Held-out rows G are compared without D: G D + c = (G - mean(F)) S^-1 F'a + mean(R). Only D is computed from a where
weights are changed, as many columns at a time. Products are of float64, there are few.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from parallelize.data.buffer import Buffer, Kept
from parallelize.refitting.blocks import TILE, Symmetric, Tall, ridged
from parallelize.refitting.moments import Moments
from parallelize.refitting.solution import Solution
from parallelize.refitting.squares import sum_of_squares


@dataclass(frozen=True, eq=False)
class _Piece:
    """Rows that came at once: their features, TILE columns at a time, and their targets."""

    count: int
    features: tuple[Kept, ...]
    targets: Kept


class Rows:
    """Rows of features (columns) and targets.

    Attributes:
        width: how many columns.
        targets: how many of them.
        target: the sum of the squares of R.
        rows: how many rows there are.
        blocks: of them, TILE rows at most.
        squares: (columns,) the sum of the squares of each feature.
        sums: (columns,) of each feature.
    """

    def __init__(self, width: int, targets: int, device: torch.device, buffer: Buffer | None = None) -> None:
        """No rows."""
        self.width, self.targets, self.device = width, targets, device
        self.buffer = Buffer() if buffer is None else buffer
        self.target, self.rows, self.first = 0.0, 0, 0
        self.blocks: list[list[_Piece]] = []
        self.squares, self.sums = (torch.zeros(width, dtype=torch.float64, device=device) for _ in range(2))

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Take in rows: features (rows, columns), targets (rows, targets)."""
        precision = torch.promote_types(features.dtype, torch.float32)
        wide, aim = (value.to(self.device, precision) for value in (features, targets))
        for start in range(0, len(wide), TILE):
            self._add(wide[start : start + TILE], aim[start : start + TILE])
        self.target += sum_of_squares(aim)
        self.rows += len(wide)

    def _add(self, wide: Tensor, aim: Tensor) -> None:
        keep = self.buffer.keep
        spans = list(self.spans())
        columns = tuple(keep(wide[:, start:stop]) for start, stop in spans)
        if not self.blocks or sum(piece.count for piece in self.blocks[-1]) + len(wide) > TILE:
            self.blocks.append([])
        self.blocks[-1].append(_Piece(len(wide), columns, keep(aim)))
        self.sums += wide.sum(0, dtype=torch.float64)
        self.squares += torch.cat([wide[:, start:stop].double().square().sum(0) for start, stop in spans])

    def columns(self, chosen: slice) -> Rows:
        """The same rows with some of the features, neighbours of each other."""
        start, stop, _ = chosen.indices(self.width)
        part = Rows(stop - start, self.targets, self.device, self.buffer)
        part.target, part.rows, part.blocks, part.first = self.target, self.rows, self.blocks, self.first + start
        part.squares, part.sums = self.squares[start:stop], self.sums[start:stop]
        return part

    def moments(self) -> Moments:
        """The moments of these rows."""
        moments = Moments(self.width, self.targets, self.device, self.buffer)
        for piece in (piece for block in self.blocks for piece in block):
            moments.add(self._read(piece, 0, self.width), piece.targets.value)
        return moments

    def part(self, block: int, start: int, stop: int) -> Tensor:
        """(rows of the block, stop - start): some of its columns, in their precision."""
        return torch.cat([self._read(piece, start, stop) for piece in self.blocks[block]])

    def aims(self, block: int) -> Tensor:
        """(rows of the block, targets), float64."""
        return torch.cat([piece.targets.value for piece in self.blocks[block]]).double()

    def spans(self) -> Iterator[tuple[int, int]]:
        """Columns to work on at a time."""
        return ((start, min(start + TILE, self.width)) for start in range(0, self.width, TILE))

    def lack(self, solution: Solution) -> float:
        """|F D - R|^2 on these rows."""
        return sum(
            float((self._predicted(block, solution) - self.aims(block)).square().sum())
            for block in range(len(self.blocks))
        )

    def _predicted(self, block: int, solution: Solution) -> Tensor:
        if isinstance(solution, FromKernel):
            return solution.on(self, block)
        return solution.predicted((start, self.part(block, start, stop)) for start, stop in self.spans())

    def _read(self, piece: _Piece, start: int, stop: int) -> Tensor:
        start, stop = start + self.first, stop + self.first
        numbers = range(start // TILE, -(-stop // TILE))
        parts = [piece.features[n].value[:, max(0, start - n * TILE) : stop - n * TILE] for n in numbers]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


class FromRows:
    """Solves for one ridge after another; each takes a factorisation, rows^3 / 3."""

    def __init__(self, rows: Rows, *, constant: bool) -> None:
        self.rows, self.constant = rows, constant
        count = max(rows.rows, 1)
        self.scale = torch.where(rows.squares > 0, rows.squares, 1.0).sqrt()
        self.mean = rows.sums / count if constant else torch.zeros_like(rows.sums)
        zeros = torch.zeros(rows.targets, dtype=torch.float64, device=rows.device)
        self.aim = sum((rows.aims(n).sum(0) for n in self.numbers), zeros) / count if constant else zeros
        self.kernel = Symmetric(rows.buffer)
        for j in self.numbers:
            for i in range(j + 1):
                self.kernel[i, j] = self._products(rows, i, j)
        self._held_out: dict[tuple[Rows, int, int], Kept] = {}

    @property
    def numbers(self) -> range:
        """Of the blocks of rows."""
        return range(len(self.rows.blocks))

    def __call__(self, ridge: float) -> Solution:
        """The solution for a ridge."""
        sizes = [sum(piece.count for piece in block) for block in self.rows.blocks]
        like = self.scale.new_ones
        found = ridged(
            len(sizes), self.kernel.whole, lambda n, jitter: like(sizes[n]) * (ridge + jitter), self.rows.buffer
        )
        right = Tall.keep((self.rows.aims(number) - self.aim for number in self.numbers), self.rows.buffer)
        found.solve(right)
        return FromKernel(self, right)

    def scaled(self, rows: Rows, block: int, start: int, stop: int) -> Tensor:
        """(F - mean) S^-1/2 of a block of rows, some of the columns."""
        mean, scale = self.mean[start:stop], self.scale[start:stop]
        return (rows.part(block, start, stop).double() - mean) / scale

    def _products(self, ours: Rows, i: int, j: int) -> Tensor:
        """Block (i, j) of the products of some rows with those that fit."""
        total: Tensor | None = None
        for start, stop in self.rows.spans():
            right = self.scaled(self.rows, j, start, stop)
            left = right if ours is self.rows and i == j else self.scaled(ours, i, start, stop)
            product = left @ right.mT
            total = product if total is None else total + product
        assert total is not None
        return total

    def products(self, ours: Rows, i: int, j: int) -> Tensor:
        """The same for held-out rows, computed once."""
        key = ours, i, j
        if key not in self._held_out:
            self._held_out[key] = self.rows.buffer.keep(self._products(ours, i, j))
        return self._held_out[key].value


class FromKernel(Solution):
    """A solution by what each row adds to it."""

    def __init__(self, solver: FromRows, rows: Tall) -> None:
        self._solver, self._rows = solver, rows

    def on(self, held_out: Rows, block: int) -> Tensor:
        """What it foretells of held-out rows."""
        solver = self._solver
        parts = (solver.products(held_out, block, number) @ self._rows[number] for number in solver.numbers)
        return sum(parts, solver.aim)

    def part(self, start: int, stop: int) -> Tensor:
        """Of some of the features."""
        return torch.cat([self._part(at, min(at + TILE, stop)) for at in range(start, stop, TILE)])

    def _part(self, start: int, stop: int) -> Tensor:
        solver = self._solver
        parts = (solver.scaled(solver.rows, n, start, stop).mT @ self._rows[n] for n in solver.numbers)
        zeros = solver.aim.new_zeros(stop - start, len(solver.aim))
        found = sum(parts, zeros) / solver.scale[start:stop, None]
        if solver.constant and stop == solver.rows.width:
            found[-1] = self._constant()
        return found

    def _constant(self) -> Tensor:
        solver = self._solver
        total = solver.aim.clone()
        for start, stop in solver.rows.spans():
            mean = (solver.mean / solver.scale)[start:stop]
            for number in solver.numbers:
                total -= (solver.scaled(solver.rows, number, start, stop) @ mean) @ self._rows[number]
        return total
