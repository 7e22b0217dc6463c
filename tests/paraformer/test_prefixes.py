"""Prefixes of branches: all in one pass, equal to the models of the first branches run one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from paraformer.branches import Branches
from paraformer.config import ParaFormerConfig
from paraformer.errors import ParaFormerError
from paraformer.fused import FusedBranches
from paraformer.prefixes import first_branches, prefix_states
from tests.paraformer.models import images, randomised, sequences, tokens, unpadded, vision

MODELS: list[tuple[ParaFormerConfig, Callable[[], Any]]] = [
    *((vision(3, 2, merge=merge), images) for merge in ("added", "summed", "mean")),
    (vision(3, pooling="cls"), images),
    (tokens(3, 2, merge="mean"), sequences),
    (tokens(3, pooling="cls"), sequences),
    (tokens(3, task="next-token"), sequences),
    (tokens(3, task="next-token"), unpadded),
]


@pytest.mark.parametrize(("config", "feed"), MODELS)
@pytest.mark.parametrize("is_fused", [False, True], ids=["looped", "fused"])
def test_one_pass_gives_the_logits_of_every_prefix(
    config: ParaFormerConfig, feed: Callable[[], Any], is_fused: bool
) -> None:
    model = randomised(config)
    logits = (model.fuse() if is_fused else model).prefix_logits(*feed())
    assert len(logits) == 3
    for count, found in enumerate(logits, 1):
        torch.testing.assert_close(found, model.prefix(count)(*feed()), rtol=0, atol=1e-10)
    torch.testing.assert_close(logits[-1], model(*feed()), rtol=0, atol=1e-10)


def test_gradients_of_all_prefixes_reach_every_branch() -> None:
    model = randomised(vision(3)).fuse()
    model.prefix_logits(*images()).square().sum().backward()  # type: ignore[no-untyped-call]
    assert all(bool(parameter.grad.abs().sum() > 0) for parameter in model.parameters() if parameter.grad is not None)
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("is_fused", [False, True], ids=["looped", "fused"])
def test_a_prefix_is_a_para_former_of_its_own_that_loads_its_own_weights(is_fused: bool) -> None:
    model = randomised(vision(3, 2))
    whole = model.fuse() if is_fused else model
    prefix = whole.prefix(2)
    assert (prefix.config.mode, prefix.config.branches, prefix.config.depth) == ("para-former", 2, 4)
    assert isinstance(prefix.blocks, FusedBranches if is_fused else Branches)
    again = randomised(prefix.config, seed=1)
    again.load_state_dict(prefix.unfuse().state_dict())
    before = prefix(*images()).detach()
    torch.testing.assert_close(again(*images()), before, rtol=0, atol=1e-10)
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.zero_()
    assert torch.equal(prefix(*images()), before)


@pytest.mark.parametrize("count", [0, 4, -1])
def test_a_prefix_of_more_branches_than_there_are_is_refused(count: int) -> None:
    with pytest.raises(ParaFormerError, match=rf"^A Para-Former of 3 branches has no prefix of {count}\.$") as caught:
        randomised(vision(3)).prefix(count)
    assert caught.value.hint == "Choose a number from 1 to 3."


def test_folded_branches_have_no_prefixes() -> None:
    folded = randomised(vision(3)).fold()
    for ask in (lambda: folded.prefix(1), lambda: folded.prefix_logits(*images())):
        with pytest.raises(ParaFormerError, match="folded"):
            ask()


def test_the_first_branches_share_their_blocks() -> None:
    blocks = randomised(vision(3, 2)).blocks
    assert isinstance(blocks, Branches)
    assert list(first_branches(blocks, 2)) == list(blocks)[:4]


def test_states_of_prefixes_are_running_sums() -> None:
    x, ends = torch.tensor([[[1.0]]]), torch.tensor([2.0, 5.0, 7.0]).view(3, 1, 1, 1)
    assert prefix_states(x, ends, "added").flatten().tolist() == [2, 6, 12]
    assert prefix_states(x, list(ends), "summed").flatten().tolist() == [2, 7, 14]
    assert prefix_states(x, ends, "mean").flatten().tolist() == pytest.approx([2, 3.5, 14 / 3])
