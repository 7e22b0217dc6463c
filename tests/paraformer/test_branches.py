"""Branches one by one: all read the same state, and their results are merged in one of three ways."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from paraformer.block import Block
from paraformer.branches import Branches, merged
from paraformer.modes import Merge


def _blocks(count: int) -> list[Block]:
    torch.manual_seed(0)
    return [Block(8, 2, 12).double() for _ in range(count)]


def _state() -> Tensor:
    return torch.randn(2, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_a_branch_is_a_run_of_neighbouring_blocks() -> None:
    blocks = _blocks(6)
    assert Branches(blocks, 3).runs() == [blocks[:2], blocks[2:4], blocks[4:]]
    assert Branches(blocks, 2).runs() == [blocks[:3], blocks[3:]]


def test_every_branch_reads_the_same_state() -> None:
    a, b, c, d = blocks = _blocks(4)
    x = _state()
    first, second = Branches(blocks, 2).ends(x)
    assert torch.equal(first, b(a(x)))
    assert torch.equal(second, d(c(x)))


@pytest.mark.parametrize("merge", ["added", "summed", "mean"])
def test_branches_are_merged_by_the_formula_of_each_way(merge: Merge) -> None:
    x, blocks = _state(), _blocks(3)
    ends = [block(x) for block in blocks]
    expected = {"added": x + sum(end - x for end in ends), "summed": sum(ends), "mean": torch.stack(ends).mean(0)}
    torch.testing.assert_close(Branches(blocks, 3, merge)(x), expected[merge], rtol=0, atol=1e-12)


@pytest.mark.parametrize("merge", ["added", "summed", "mean"])
def test_what_one_branch_ends_in_is_the_result_to_the_bit(merge: Merge) -> None:
    x, end = _state(), _state() + 1
    assert torch.equal(merged(x, [end], merge), end)


def test_a_slice_is_one_branch_of_its_blocks() -> None:
    blocks = _blocks(4)
    part = Branches(blocks, 4)[1:3]
    assert torch.equal(part(_state()), blocks[2](blocks[1](_state())))


def test_a_mask_reaches_every_block() -> None:
    branches = Branches(_blocks(4), 2)
    x, mask = _state(), torch.tensor([True, True, True, False, False]).expand(2, 1, 1, 5)
    torch.testing.assert_close(branches(x, mask)[:, :3], branches(x[:, :3]), rtol=0, atol=1e-12)
