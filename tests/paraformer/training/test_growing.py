"""Branches are added to a trained model, change nothing at first, and are what is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from paraformer.branches import Branches
from paraformer.config import ParaFormerConfig
from paraformer.errors import TrainingError
from paraformer.fused import FusedGroups
from paraformer.training.growing import grown, keep
from paraformer.training.starts import Start
from paraformer.training.trainer import Trainer, trained_form
from tests.paraformer.models import images, randomised, sequences, tokens, vision
from tests.paraformer.training.striped import DATA, OPTIONS


@pytest.mark.parametrize(
    ("config", "feed"),
    [(vision(2, 2), images), (vision(1, 2), images), (tokens(2), sequences)],
    ids=["images", "serial", "tokens"],
)
def test_new_branches_change_nothing_at_first(config: ParaFormerConfig, feed: Callable[[], Any]) -> None:
    model = randomised(config)
    larger = grown(model, 4)
    assert (larger.config.branch_count, larger.config.branch_depth) == (4, config.branch_depth)
    torch.testing.assert_close(larger(*feed()), model(*feed()), rtol=0, atol=1e-12)
    torch.testing.assert_close(larger.prefix(config.branch_count)(*feed()), model(*feed()), rtol=0, atol=1e-12)
    assert torch.equal(larger.prefix(3)(*feed()), larger(*feed()))


@pytest.mark.parametrize("merge", ["summed", "mean"])
def test_where_branches_bring_their_own_state_the_old_ones_are_as_they_were(merge: Any) -> None:
    model = randomised(vision(2, merge=merge))
    assert torch.equal(grown(model, 3).prefix(2)(*images()), model(*images()))


def test_the_grown_model_is_a_copy_and_repeats_by_its_seed() -> None:
    model = randomised(vision(2))
    before = model(*images())
    larger = grown(model, 3, seed=5)
    again = grown(model, 3, seed=5)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in larger.state_dict().items())
    assert not torch.equal(
        grown(model, 3, seed=6).state_dict()["blocks.2.up.weight"], larger.state_dict()["blocks.2.up.weight"]
    )
    with torch.no_grad():
        for parameter in larger.parameters():
            parameter.zero_()
    assert torch.equal(model(*images()), before)


@pytest.mark.parametrize("branches", [0, 1, 2])
def test_a_model_does_not_shrink(branches: int) -> None:
    with pytest.raises(TrainingError, match=rf"^A model of 2 branches is not grown to {branches}\.$"):
        grown(randomised(vision(2)), branches)


def test_old_branches_and_the_embedding_are_kept_while_the_new_one_learns(tmp_path: Path) -> None:
    model = grown(randomised(vision(2, classes=2)).float(), 3)
    first = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = Trainer(Start(model, "grown", kept=2), replace(OPTIONS, objective="progressive", ema=0.5), DATA)
    assert isinstance(trainer.model.blocks, FusedGroups)
    trained = trainer.run(tmp_path / "model.pt").state_dict
    changed = {name for name, value in first.items() if not torch.equal(value, trained[name])}
    kept = tuple(f"blocks.{place}." for place in range(2))
    assert not {name for name in changed if name.startswith((*kept, "patch", "position"))}
    assert {"blocks.2.down.weight", "blocks.2.attention.out.weight", "norm.weight", "head.bias"} <= changed


def test_groups_of_branches_compute_what_the_branches_do() -> None:
    model = grown(randomised(vision(2, 2, merge="mean")), 3)
    form = trained_form(Start(model, "grown", kept=2), OPTIONS)
    torch.testing.assert_close(form(*images()), model(*images()), rtol=0, atol=1e-10)
    torch.testing.assert_close(form.prefix_logits(*images()), model.prefix_logits(*images()), rtol=0, atol=1e-10)
    torch.testing.assert_close(form.fold()(*images()), model(*images()), rtol=0, atol=1e-10)
    back = form.unfuse()
    assert isinstance(back.blocks, Branches)
    assert all(torch.equal(value, back.state_dict()[name]) for name, value in model.state_dict().items())


def test_only_new_branches_norm_and_head_are_trained() -> None:
    model = grown(randomised(vision(2)), 3)
    keep(model, 2)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {n for n, _ in model.named_parameters() if n.startswith(("blocks.2.", "norm.", "head."))}
