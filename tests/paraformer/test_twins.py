"""Twins: the same weights run serially or as branches, equal where the mathematics is."""

from __future__ import annotations

import pytest
import torch

from paraformer.config import ParaFormerConfig
from paraformer.errors import ParaFormerError
from paraformer.twins import from_serial, to_serial
from tests.paraformer.models import images, randomised, sequences, tokens, vision

KINDS = [(vision(1, 4), images), (tokens(1, 4), sequences)]


@pytest.mark.parametrize(("config", "feed"), KINDS)
def test_one_branch_of_a_serial_network_is_that_network(config: ParaFormerConfig, feed: object) -> None:
    model = randomised(config)
    assert callable(feed)
    one = from_serial(model, 1)
    assert one.config.mode == "para-former"
    assert torch.equal(one(*feed()), model(*feed()))
    assert torch.equal(to_serial(one)(*feed()), model(*feed()))


@pytest.mark.parametrize(("config", "feed"), KINDS)
def test_blocks_become_branches_and_serial_again_with_the_same_weights(config: ParaFormerConfig, feed: object) -> None:
    model = randomised(config)
    assert callable(feed)
    parallel = from_serial(model, 2)
    assert (parallel.config.branch_count, parallel.config.branch_depth) == (2, 2)
    assert not torch.allclose(parallel(*feed()), model(*feed()))
    back = to_serial(parallel)
    assert back.config == model.config
    assert torch.equal(back(*feed()), model(*feed()))


def test_blocks_that_add_nothing_make_equal_twins() -> None:
    model = randomised(vision(1, 4))
    for block in model.blocks:
        for linear in (block.attention.out, block.down):
            torch.nn.init.zeros_(linear.weight)
            torch.nn.init.zeros_(linear.bias)
    torch.testing.assert_close(from_serial(model, 4)(*images()), model(*images()), rtol=0, atol=1e-12)


def test_a_twin_is_a_copy_of_its_own() -> None:
    model = randomised(vision(1, 4))
    before = model(*images())
    with torch.no_grad():
        for parameter in from_serial(model, 2).parameters():
            parameter.zero_()
    assert torch.equal(model(*images()), before)


def test_a_fused_para_former_has_the_serial_twin_of_its_branches() -> None:
    model = randomised(vision(2, 2))
    assert torch.equal(to_serial(model.fuse())(*images()), to_serial(model)(*images()))


def test_a_para_former_is_no_serial_network() -> None:
    with pytest.raises(ParaFormerError, match=r"^The model is a Para-Former of 2 branches") as caught:
        from_serial(randomised(vision(2)), 2)
    assert "to_serial" in caught.value.hint


@pytest.mark.parametrize("branches", [0, 3, 5, -2])
def test_branches_of_unequal_depth_are_refused(branches: int) -> None:
    with pytest.raises(ParaFormerError, match=rf"^4 blocks are not {branches} branches of equal depth\.$"):
        from_serial(randomised(vision(1, 4)), branches)
