"""The token model: padding does not matter, what comes later is not read, heads are as the task says."""

from __future__ import annotations

import pytest
import torch

from paraformer.modes import Pooling
from tests.paraformer.models import randomised, sequences, tokens, unpadded


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("branches", [1, 3])
def test_a_padded_sequence_is_classified_as_it_is_without_its_padding(pooling: Pooling, branches: int) -> None:
    model = randomised(tokens(branches, pooling=pooling))
    ids, mask = sequences()
    batch = model(ids, mask)
    assert batch.shape == (3, 3)
    for sample, length in enumerate(mask.sum(1)):
        alone = model(ids[sample : sample + 1, :length])
        torch.testing.assert_close(batch[sample : sample + 1], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("branches", [1, 3])
def test_what_comes_next_is_told_of_each_token_from_those_before_it(branches: int) -> None:
    model = randomised(tokens(branches, task="next-token"))
    (ids,) = unpadded()
    logits = model(ids)
    assert logits.shape == (3, 7, 20)
    for length in (1, 4):
        torch.testing.assert_close(logits[:, :length], model(ids[:, :length]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_on_either_side_is_not_read_by_what_says_what_comes_next_and_stays_finite(side: str) -> None:
    model = randomised(tokens(2, task="next-token"))
    ids, mask = sequences()
    if side == "left":
        mask = mask.flip(1)
    others = torch.where(mask == 1, ids, (ids + 1) % 20)
    logits = model(ids, mask)
    assert logits.isfinite().all()
    torch.testing.assert_close(model(others, mask)[mask == 1], logits[mask == 1], rtol=0, atol=1e-12)


def test_a_mask_without_padding_changes_nothing() -> None:
    for task in ("classify", "next-token"):
        model = randomised(tokens(2, task=task))
        (ids,) = unpadded()
        torch.testing.assert_close(model(ids, torch.ones_like(ids)), model(ids), rtol=0, atol=1e-12)


def test_a_sequence_of_padding_alone_is_finite() -> None:
    model = randomised(tokens(2))
    (ids,) = unpadded()
    assert model(ids, torch.zeros_like(ids)).isfinite().all()


def test_positions_matter() -> None:
    model = randomised(tokens(2))
    (ids,) = unpadded()
    assert not torch.allclose(model(ids.flip(1)), model(ids))
