"""A training begins with new weights, with those of a checkpoint, or with these and new branches."""

from __future__ import annotations

import pytest
import torch

from paraformer.checkpoint import Checkpoint
from paraformer.config import ParaFormerConfig
from paraformer.errors import CheckpointError, ParaFormerError
from paraformer.training.starts import continued, extended, fingerprint, scratch
from tests.paraformer.models import images, randomised, sequences, tokens, vision


def _trained(config: ParaFormerConfig) -> Checkpoint:
    return Checkpoint(config, randomised(config).state_dict(), {"words": [str(number) for number in range(20)]})


def test_new_weights_repeat_by_their_seed() -> None:
    prints = [fingerprint(scratch(vision(2), seed).model) for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


def test_a_fingerprint_tells_names_and_every_weight() -> None:
    model = randomised(vision(1))
    before = fingerprint(model)
    with torch.no_grad():
        model.head.bias[0] += 1
    assert fingerprint(model) != before
    assert fingerprint(model.bfloat16()) != before


def test_a_checkpoint_goes_on_as_it_is() -> None:
    start = continued(_trained(tokens(2)), "model.pt")
    assert start.model.config == tokens(2)
    torch.testing.assert_close(
        start.model.double()(*sequences()), randomised(tokens(2))(*sequences()), rtol=1e-4, atol=1e-4
    )
    assert (start.origin, start.kept, len(start.words)) == ("model.pt", 0, 20)


def test_a_serial_checkpoint_becomes_a_para_former_and_the_other_way_round() -> None:
    serial = randomised(vision(1, 4))
    trained = _trained(vision(1, 4))
    start = continued(trained, "model.pt", branches=2, merge="mean")
    assert (start.model.config.branch_count, start.model.config.merge) == (2, "mean")
    assert fingerprint(start.model) == fingerprint(continued(trained, "model.pt").model)
    assert start.origin == "model.pt, made a Para-Former of 2 branches"
    assert continued(trained, "model.pt", "para-former").model.config.mode == "para-former"
    parallel = Checkpoint(start.model.config, start.model.state_dict())
    back = continued(parallel, "model.pt", "serial")
    assert back.model.config.mode == "serial"
    torch.testing.assert_close(back.model.double()(*images()), serial(*images()), rtol=1e-4, atol=1e-4)


def test_a_para_former_of_other_branches_is_no_start() -> None:
    trained = _trained(vision(2, 3))
    with pytest.raises(CheckpointError, match=r"is a Para-Former of 2 branches, not 3\.$") as caught:
        continued(trained, "model.pt", branches=3)
    assert "--grow" in caught.value.hint
    assert continued(trained, "model.pt", branches=2).model.config.branch_count == 2


def test_blocks_that_are_not_so_many_branches_are_refused() -> None:
    with pytest.raises(ParaFormerError, match="4 blocks are not 3 branches"):
        continued(_trained(vision(1, 4)), "model.pt", branches=3)


def test_an_extended_checkpoint_keeps_what_it_has_unless_that_is_trained() -> None:
    trained = _trained(vision(2))
    assert extended(trained, "model.pt", 3).kept == 2
    assert extended(trained, "model.pt", 3, train_old=True).kept == 0
    assert extended(trained, "model.pt", 3).origin == "model.pt, grown from 2 to 3 branches"
    assert extended(trained, "model.pt", 3).model.config.branch_count == 3
