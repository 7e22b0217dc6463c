"""Fused branches: the outputs and gradients of branches one by one, in as many operators for any number of them."""

from __future__ import annotations

import functools

import pytest
import torch

from paraformer.config import ParaFormerConfig
from paraformer.fused import FusedBranches
from paraformer.modes import Merge
from tests.paraformer.exported import operators
from tests.paraformer.models import Feed, images, randomised, sequences, tokens, trained, unpadded, vision

EXACT = 1e-10
MERGES = ("added", "summed", "mean")
NETWORKS = [
    *(
        pytest.param(vision(3, depth, merge=merge), images, id=f"{merge} {depth}")
        for merge in MERGES
        for depth in (1, 3)
    ),
    pytest.param(vision(1, 2), images, id="serial"),
    pytest.param(vision(2, pooling="cls"), images, id="learned token"),
    pytest.param(tokens(3, 2), sequences, id="padding"),
    pytest.param(tokens(3, 2), unpadded, id="no padding"),
    pytest.param(tokens(2, 1, task="next-token"), unpadded, id="causal"),
    pytest.param(tokens(2, 2, task="next-token"), sequences, id="causal padding"),
]


@pytest.mark.parametrize(("config", "feed"), NETWORKS)
def test_outputs_and_gradients_are_those_of_the_branches_one_by_one(config: ParaFormerConfig, feed: Feed) -> None:
    looped = randomised(config)
    fused = looped.fuse()
    torch.testing.assert_close(trained(fused, feed()), trained(looped, feed()), rtol=0, atol=EXACT)
    gradients = dict(fused.named_parameters())
    for name, parameter in looped.named_parameters():
        grad = gradients[name].grad if name in gradients else _stacked(fused, name, config.branch_depth)
        torch.testing.assert_close(grad, parameter.grad, rtol=EXACT, atol=EXACT)


def _stacked(fused: torch.nn.Module, name: str, depth: int) -> torch.Tensor | None:
    """The part of a leaf's gradient that belongs to a parameter of a block."""
    _, number, inner = name.split(".", 2)
    branch, place = divmod(int(number), depth)
    gradient = fused.get_parameter(f"blocks.blocks.{place}.{inner}").grad
    assert gradient is not None
    return gradient[branch]


@pytest.mark.parametrize("merge", MERGES)
def test_steps_of_an_optimiser_are_the_same_steps(merge: Merge) -> None:
    looped = randomised(vision(3, 2, merge=merge))
    models = {"looped": looped, "fused": looped.fuse()}
    for model in models.values():
        optimiser = torch.optim.AdamW(model.parameters(), 1e-2)
        for _ in range(4):
            trained(model, images())
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
    states = [model.unfuse().state_dict() for model in models.values()]
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=0, atol=1e-8)


def test_the_branches_come_back_to_the_bit() -> None:
    looped = randomised(vision(3, 2, merge="mean")).train()
    looped.head.requires_grad_(requires_grad=False)
    back = looped.fuse().unfuse()
    assert list(back.state_dict()) == list(looped.state_dict())
    assert all(torch.equal(value, looped.state_dict()[name]) for name, value in back.state_dict().items())
    assert torch.equal(back(*images()), looped(*images()))
    assert back.training
    assert [p.requires_grad for p in back.parameters()] == [p.requires_grad for p in looped.parameters()]


def test_the_ends_of_the_branches_are_told_one_by_one() -> None:
    looped = randomised(tokens(3, 2))
    ids, mask = sequences()
    x, seen = looped.embed(ids), looped.seen(mask)
    fused = looped.fuse().blocks
    assert isinstance(fused, FusedBranches)
    torch.testing.assert_close(fused.ends(x, seen), torch.stack(looped.blocks.ends(x, seen)), rtol=0, atol=EXACT)


@functools.cache
def _operators(branches: int, depth: int) -> dict[str, int]:
    return operators(randomised(vision(branches, depth)).fuse(), images())


@pytest.mark.parametrize("depth", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("branches", [2, 3, 8, 16])
def test_any_number_of_fused_branches_takes_as_many_operators_as_one(branches: int, depth: int) -> None:
    assert _operators(branches, depth) == _operators(1, depth)


def test_autocast_leaves_the_state_in_float32() -> None:
    fused = randomised(vision(3, 2)).float().fuse().train()
    blocks = fused.blocks
    assert isinstance(blocks, FusedBranches)
    with torch.autocast("cpu", torch.bfloat16):
        x = torch.randn(2, 4, 16)
        assert blocks.ends(x).dtype == torch.float32
        assert blocks(x).dtype == torch.float32
