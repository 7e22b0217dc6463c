"""What all models share: three forms of the branches, and copies that do not touch what they came from."""

from __future__ import annotations

import torch

from paraformer.branches import Branches
from paraformer.folded import FoldedBranches
from paraformer.fused import FusedBranches
from tests.paraformer.models import images, randomised, sequences, tokens, vision


def test_a_model_has_three_forms_and_each_is_asked_for_by_name() -> None:
    model = randomised(vision(2))
    assert isinstance(model.blocks, Branches)
    assert isinstance(model.fuse().blocks, FusedBranches)
    assert isinstance(model.fuse().fold().blocks, FoldedBranches)
    assert isinstance(model.fuse().unfuse().blocks, Branches)
    assert model.unfuse() is model
    assert (fused := model.fuse()).fuse() is fused


def test_the_forms_of_a_model_share_no_tensor() -> None:
    model = randomised(tokens(2, 2))
    before = model(*sequences())
    for other in (model.fuse(), model.fold(), model.fuse().unfuse()):
        with torch.no_grad():
            for tensor in (*other.parameters(), *other.buffers()):
                tensor.zero_()
    assert torch.equal(model(*sequences()), before)


def test_a_form_is_in_the_mode_dtype_and_config_of_the_model() -> None:
    model = randomised(vision(2)).float().train()
    fused = model.fuse()
    assert fused.config is model.config
    assert fused.training
    assert fused.blocks.training
    assert {parameter.dtype for parameter in fused.parameters()} == {torch.float32}
    assert not model.fold().training
    assert fused(images()[0].float()).dtype == torch.float32
