"""Matrices by blocks: factors and solutions are those of the whole matrix, wherever the blocks lie."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from parallelize.data.buffer import Buffer
from parallelize.refitting import blocks
from parallelize.refitting.blocks import Symmetric, Tall, cuts, factor, ridged


def _positive(size: int) -> Tensor:
    root = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
    return root @ root.T + torch.eye(size, dtype=torch.float64)


def _by_blocks(matrix: Tensor, buffer: Buffer) -> Symmetric:
    found = Symmetric(buffer)
    for j, right in enumerate(cuts(len(matrix))):
        for i, left in enumerate(cuts(len(matrix))[: j + 1]):
            found[i, j] = matrix[left, right].clone()
    return found


@pytest.mark.parametrize("bound", [0, 2**31], ids=["file", "memory"])
@pytest.mark.parametrize(("size", "tile"), [(1, 4), (4, 4), (5, 4), (16, 4), (23, 6), (9, 100)])
def test_a_system_is_solved_as_that_of_the_whole_matrix(
    size: int, tile: int, bound: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "TILE", tile)
    buffer, matrix = Buffer(bound), _positive(size)
    ours, right = _by_blocks(matrix, buffer), torch.randn(size, 3, dtype=torch.float64)
    found, positive = factor(len(cuts(size)), ours.whole, buffer)
    answer = Tall.keep((right[cut].clone() for cut in cuts(size)), buffer)
    found.solve(answer)
    assert positive
    torch.testing.assert_close(answer.part(0, size), torch.linalg.solve(matrix, right))
    torch.testing.assert_close(answer.part(size // 3, size), torch.linalg.solve(matrix, right)[size // 3 :])
    assert all(torch.equal(ours[place], _by_blocks(matrix, buffer)[place]) for place in ours)


def test_both_sides_of_the_diagonal_are_there() -> None:
    whole = torch.arange(9.0).reshape(3, 3)
    symmetric = Symmetric(Buffer())
    symmetric[0, 0], symmetric[0, 1], symmetric[1, 1] = whole[:2, :2], whole[:2, 2:], whole[2:, 2:]
    assert symmetric.whole(0, 0).tolist() == [[0, 1], [1, 4]]
    assert symmetric.whole(1, 0).tolist() == symmetric.whole(0, 1).T.tolist() == [[2, 5]]


def test_a_matrix_that_is_not_positive_is_told_and_made_so_by_a_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "TILE", 2)
    matrix = torch.ones(5, 5, dtype=torch.float64)
    matrix[4, 4] -= 1e-6
    ours = _by_blocks(matrix, Buffer())
    assert not factor(3, ours.whole, Buffer())[1]
    sizes = [2, 2, 1]
    found = ridged(3, ours.whole, lambda number, jitter: torch.full((sizes[number],), jitter).double(), Buffer())
    right = Tall.keep((torch.ones(size, 1, dtype=torch.float64) for size in sizes), Buffer())
    found.solve(right)
    torch.testing.assert_close(matrix @ right.part(0, 5), torch.ones(5, 1).double(), rtol=0, atol=1e-2)
