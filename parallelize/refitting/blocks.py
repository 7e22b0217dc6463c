"""Matrices by blocks in the memory of the job, in float64: what is larger than that memory lies in its file.

    tall         a list of blocks of rows
    symmetric    the blocks on the diagonal and above it
    factor       U with U'U = A, by block columns from the left:

        U_ij = U_ii'^-1 (A_ij - sum_{k < i} U_ki' U_kj)        U_jj'U_jj = A_jj - sum_{k < j} U_kj' U_kj

A block has TILE rows at most, so a matrix of fewer is one block, and four blocks are worked on at a time. How a matrix
is cut depends on its size alone: where its blocks lie changes no number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from parallelize.data.buffer import Buffer, Kept

TILE = 2**11
_JITTERS = (1e-12, 1e-7, 1e-5, 1e-3)

Tile = Callable[[int, int], Tensor]  # block (i, j) of a symmetric matrix, i <= j; whole on the diagonal


def cuts(size: int) -> list[slice]:
    """Blocks of so many rows."""
    return [slice(start, min(start + TILE, size)) for start in range(0, size, TILE)]


class Tall:
    """A matrix (rows, columns) by blocks of rows."""

    def __init__(self, blocks: Sequence[Kept]) -> None:
        self.blocks = blocks

    @classmethod
    def keep(cls, blocks: Iterator[Tensor], buffer: Buffer) -> Tall:
        """Blocks as they come, each TILE rows but the last."""
        return cls([buffer.keep(block) for block in blocks])

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, number: int) -> Tensor:
        return self.blocks[number].value

    def __setitem__(self, number: int, value: Tensor) -> None:
        self.blocks[number].put(value)

    def part(self, start: int, stop: int) -> Tensor:
        """Some of the rows."""
        numbers = range(start // TILE, -(-stop // TILE))
        return torch.cat([self[n][max(0, start - n * TILE) : stop - n * TILE] for n in numbers])


class Symmetric:
    """The upper triangle of a symmetric matrix; below the diagonal of a block anything may stand."""

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer
        self._blocks: dict[tuple[int, int], Kept] = {}

    def __getitem__(self, place: tuple[int, int]) -> Tensor:
        return self._blocks[place].value

    def __setitem__(self, place: tuple[int, int], value: Tensor) -> None:
        if place in self._blocks:
            self._blocks[place].put(value)
        else:
            self._blocks[place] = self.buffer.keep(value)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._blocks)

    def whole(self, i: int, j: int) -> Tensor:
        """Block (i, j) with all that stands in it, wherever that is stored."""
        if i != j:
            return self[i, j] if i < j else self[j, i].mT
        upper = self[i, i].triu()
        return upper + upper.triu(1).mT


class Factor:
    """U with U'U = A."""

    def __init__(self, upper: Symmetric) -> None:
        self._upper = upper

    def solve(self, right: Tall) -> None:
        """Put A^-1 B in the place of B."""
        upper, count = self._upper, len(right)
        for i in range(count):
            value = right[i]
            for k in range(i):
                value = torch.addmm(value, upper[k, i].mT, right[k], alpha=-1)
            right[i] = torch.linalg.solve_triangular(upper[i, i].mT, value, upper=False)
        for i in reversed(range(count)):
            value = right[i]
            for k in range(i + 1, count):
                value = torch.addmm(value, upper[i, k], right[k], alpha=-1)
            right[i] = torch.linalg.solve_triangular(upper[i, i], value, upper=True)


def factor(count: int, tile: Tile, buffer: Buffer) -> tuple[Factor, bool]:
    """The factor of a matrix of `count` blocks on the diagonal, and whether the matrix is positive definite."""
    upper, positive = Symmetric(buffer), True
    for j in range(count):
        for i in range(j + 1):
            left = tile(i, j)
            for k in range(i):
                left = torch.addmm(left, upper[k, i].mT, upper[k, j], alpha=-1)
            if i < j:
                upper[i, j] = torch.linalg.solve_triangular(upper[i, i].mT, left, upper=False)
                continue
            lower, failed = torch.linalg.cholesky_ex(left)
            positive = positive and not failed
            upper[j, j] = lower.mT
    return Factor(upper), positive


def ridged(count: int, tile: Tile, penalty: Callable[[int, float], Tensor], buffer: Buffer) -> Factor:
    """The factor of a matrix with a penalty on its diagonal, which rounding may have left short of positive.

    Args:
        count: blocks on the diagonal.
        tile: blocks of the matrix.
        penalty: on the diagonal of a block, from its number and what is added to all.
        buffer: where the factor lies.
    """

    def penalised(jitter: float, i: int, j: int) -> Tensor:
        return tile(i, j) + torch.diag(penalty(i, jitter)) if i == j else tile(i, j)

    for jitter in _JITTERS:
        found, positive = factor(count, partial(penalised, jitter), buffer)
        if positive:
            break
    return found
