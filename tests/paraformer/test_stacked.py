"""Stacked leaves: the parameters of equal blocks under a block's own names, and back."""

from __future__ import annotations

import pytest
import torch

from paraformer.block import Block
from paraformer.errors import ParaFormerError
from paraformer.stacked import StackedBlock


def _blocks(count: int = 3) -> list[Block]:
    torch.manual_seed(0)
    return [Block(8, 2, 12, causal=True).double() for _ in range(count)]


def test_leaves_have_the_names_of_a_block_and_a_leading_branch_axis() -> None:
    blocks = _blocks()
    leaves = dict(StackedBlock(blocks).named_parameters())
    assert leaves.keys() == dict(blocks[0].named_parameters()).keys()
    for name, leaf in leaves.items():
        assert torch.equal(leaf, torch.stack([block.get_parameter(name) for block in blocks]))


def test_blocks_come_back_equal_and_are_their_own() -> None:
    blocks = _blocks()
    blocks[0].norm1.eps = blocks[1].norm1.eps = blocks[2].norm1.eps = 1e-3
    stacked = StackedBlock(blocks)
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    back = stacked.blocks()
    assert all(torch.equal(new(x), old(x)) for new, old in zip(back, blocks, strict=True))
    torch.nn.init.zeros_(back[0].up.weight)
    assert stacked.up.weight[0].abs().sum() > 0


def test_coming_back_draws_no_random_numbers() -> None:
    stacked = StackedBlock(_blocks())
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    stacked.blocks()
    assert torch.equal(torch.rand(2), expected)


def test_what_is_kept_in_every_branch_stays_kept() -> None:
    blocks = _blocks()
    for block in blocks:
        block.up.requires_grad_(requires_grad=False)
    stacked = StackedBlock(blocks)
    assert not stacked.up.weight.requires_grad
    assert stacked.down.weight.requires_grad
    assert not stacked.blocks()[1].up.bias.requires_grad


def test_what_only_some_branches_keep_is_refused() -> None:
    blocks = _blocks()
    blocks[1].up.requires_grad_(requires_grad=False)
    with pytest.raises(ParaFormerError, match=r"^Some branches train a weight that others keep"):
        StackedBlock(blocks)
