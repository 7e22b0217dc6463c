"""Names of tensors do not depend on how branches run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paraformer.branches import Branches
from paraformer.fused import FusedGroups
from paraformer.network import ParaFormer
from paraformer.training.named_state import NamedState, named, places
from paraformer.training.resuming import Kept
from tests.paraformer.models import randomised, vision

MODEL = randomised(replace(vision(3), branches=3, depth=6))


def _forms() -> dict[str, ParaFormer]:
    blocks = MODEL.blocks
    assert isinstance(blocks, Branches)
    return {"looped": MODEL, "fused": MODEL.fuse(), "in groups": MODEL.with_blocks(FusedGroups(blocks, 1))}


@pytest.mark.parametrize("form", ["looped", "fused", "in groups"])
def test_every_form_names_its_tensors_as_the_looped_model_does(form: str) -> None:
    model, expected = _forms()[form], MODEL.state_dict()
    found = named(model.state_dict(), places(model))
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def _trained(model: ParaFormer) -> tuple[ParaFormer, torch.optim.Optimizer]:
    """A copy after two steps."""
    copy = model.with_blocks(model.blocks)
    copy.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(copy.parameters(), 1e-2)
    for _ in range(2):
        sum(parameter.square().sum() for parameter in copy.parameters()).backward()  # type: ignore[union-attr]
        optimizer.step()
    return copy, optimizer


@pytest.mark.parametrize("other", ["looped", "in groups", "fused"])
def test_weights_and_moments_of_one_form_go_on_in_another(other: str) -> None:
    model, optimizer = _trained(_forms()["fused"])
    tensors = NamedState(model, optimizer, None).tensors(None)
    there = _forms()[other]
    fresh = torch.optim.AdamW(there.parameters(), 1e-2)
    assert NamedState(there, fresh, None).load(Kept({}, tensors)) is None
    again = NamedState(there, fresh, None).tensors(None)
    assert again.keys() == tensors.keys()
    assert all(torch.equal(value, again[name]) for name, value in tensors.items())
    assert torch.equal(again["optimizer.step.blocks.3.up.weight"], torch.tensor(2.0))


def test_the_best_weights_come_back(tmp_path: Path) -> None:
    model = _forms()["fused"]
    state = NamedState(model, torch.optim.AdamW(model.parameters()), model)
    tensors = state.tensors(model.state_dict())
    assert {name.split(".")[0] for name in tensors} == {"model", "average", "best"}
    best = state.load(Kept({}, tensors))
    assert best is not None
    assert all(torch.equal(value, best[name]) for name, value in model.state_dict().items())
