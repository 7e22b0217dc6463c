"""A training begins with new weights, with those of a checkpoint, or with these and new branches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from paraformer.checkpoint import Checkpoint, save
from paraformer.config import ParaFormerConfig
from paraformer.errors import CheckpointError, ParaFormerError
from paraformer.training.starts import continued, extended, fingerprint, scratch
from tests.paraformer.models import images, randomised, sequences, tokens, vision


def _saved(folder: Path, config: ParaFormerConfig) -> Path:
    path = folder / "model.pt"
    words = [str(number) for number in range(20)]
    save(path, Checkpoint(config, randomised(config).state_dict(), {"words": words}))
    return path


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


def test_a_checkpoint_goes_on_as_it_is(tmp_path: Path) -> None:
    start = continued(_saved(tmp_path, tokens(2)))
    assert start.model.config == tokens(2)
    torch.testing.assert_close(
        start.model.double()(*sequences()), randomised(tokens(2))(*sequences()), rtol=1e-4, atol=1e-4
    )
    assert (start.origin, start.kept, len(start.words)) == ("model.pt", 0, 20)


def test_a_serial_checkpoint_becomes_a_para_former_and_the_other_way_round(tmp_path: Path) -> None:
    serial = randomised(vision(1, 4))
    path = _saved(tmp_path, vision(1, 4))
    start = continued(path, branches=2, merge="mean")
    assert (start.model.config.branch_count, start.model.config.merge) == (2, "mean")
    assert fingerprint(start.model) == fingerprint(continued(path).model)
    assert start.origin == "model.pt, made a Para-Former of 2 branches"
    assert continued(path, "para-former").model.config.mode == "para-former"
    save(path, Checkpoint(start.model.config, start.model.state_dict()))
    back = continued(path, "serial")
    assert back.model.config.mode == "serial"
    torch.testing.assert_close(back.model.double()(*images()), serial(*images()), rtol=1e-4, atol=1e-4)


def test_a_para_former_of_other_branches_is_no_start(tmp_path: Path) -> None:
    path = _saved(tmp_path, vision(2, 3))
    with pytest.raises(CheckpointError, match=r"is a Para-Former of 2 branches, not 3\.$") as caught:
        continued(path, branches=3)
    assert "--grow" in caught.value.hint
    assert continued(path, branches=2).model.config.branch_count == 2


def test_blocks_that_are_not_so_many_branches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParaFormerError, match="4 blocks are not 3 branches"):
        continued(_saved(tmp_path, vision(1, 4)), branches=3)


def test_an_extended_checkpoint_keeps_what_it_has_unless_that_is_trained(tmp_path: Path) -> None:
    path = _saved(tmp_path, vision(2))
    assert extended(path, 3).kept == 2
    assert extended(path, 3, train_old=True).kept == 0
    assert extended(path, 3).origin == "model.pt, grown from 2 to 3 branches"
    assert extended(path, 3).model.config.branch_count == 3
