"""The image model: one set of parameters, run serially or as branches that all read the embedding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from paraformer.branches import Branches
from paraformer.config import VisionConfig
from paraformer.modes import Pooling
from paraformer.vision import VisionParaFormer

SMALL = VisionConfig(depth=4, width=16, heads=2, hidden=32, image_size=8, patch_size=4)


def _model(config: VisionConfig, state: dict[str, Tensor] | None = None) -> VisionParaFormer:
    torch.manual_seed(0)
    model = VisionParaFormer(config).double().eval()
    if state is not None:
        model.load_state_dict(state)
    return model


def _images(count: int = 3) -> Tensor:
    return torch.rand(count, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 255


def _para_former(branches: int) -> VisionConfig:
    return replace(SMALL, mode="para-former", branches=branches)


def test_both_modes_have_the_same_parameters_so_that_a_state_dict_of_one_loads_in_the_other() -> None:
    serial, parallel = VisionParaFormer(SMALL), VisionParaFormer(_para_former(4))
    layouts = [{name: value.shape for name, value in model.state_dict().items()} for model in (serial, parallel)]
    assert layouts[0] == layouts[1]
    parallel.load_state_dict(serial.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(serial.parameters(), parallel.parameters(), strict=True))
    assert torch.equal(serial.embed(_images().float()), parallel.embed(_images().float()))


def test_a_para_former_of_one_branch_is_the_serial_network_to_the_bit() -> None:
    serial = _model(SMALL)
    one_branch = _model(_para_former(1), serial.state_dict())
    assert torch.equal(one_branch(_images()), serial(_images()))


@pytest.mark.parametrize("branches", [1, 2, 4])
def test_the_state_of_a_para_former_is_the_embedding_and_the_sum_of_what_its_branches_add(branches: int) -> None:
    model = _model(_para_former(branches))
    x = model.embed(_images())
    length = 4 // branches
    total = x
    for branch in range(branches):
        state = x
        for block in range(branch * length, (branch + 1) * length):
            state = model.blocks[block](state)
        total = total + (state - x)
    expected = model.head(model.norm(total).mean(1))
    torch.testing.assert_close(model(_images()), expected, rtol=0, atol=1e-12)


def test_the_serial_network_ignores_the_number_of_branches() -> None:
    model = _model(replace(SMALL, branches=2))
    assert torch.equal(model(_images()), _model(SMALL)(_images()))


def test_the_order_of_blocks_matters_serially_and_not_among_branches_of_one_block() -> None:
    changes = {}
    for config in (SMALL, _para_former(4)):
        model = _model(config)
        before = model(_images())
        model.blocks = Branches(reversed(model.blocks), config.branch_count)
        changes[config.mode] = float((model(_images()) - before).detach().abs().max())
    assert changes["para-former"] < 1e-12
    assert changes["serial"] > 1e-4


@settings(deadline=None, max_examples=20)
@given(
    batch=st.integers(1, 3),
    patches=st.integers(1, 3),
    patch_size=st.integers(1, 4),
    channels=st.integers(1, 3),
    classes=st.integers(1, 5),
    pooling=st.sampled_from(["mean", "cls"]),
)
def test_logits_have_the_shape_batch_by_classes(
    batch: int, patches: int, patch_size: int, channels: int, classes: int, pooling: Pooling
) -> None:
    config = VisionConfig(
        image_size=patches * patch_size,
        patch_size=patch_size,
        channels=channels,
        classes=classes,
        depth=2,
        width=8,
        heads=2,
        hidden=4,
        pooling=pooling,
    )
    model = VisionParaFormer(config).eval()
    assert config.input_shape == (channels, patches * patch_size, patches * patch_size)
    images = torch.zeros(batch, *config.input_shape)
    assert model.embed(images).shape == (batch, config.tokens, 8)
    assert config.tokens == patches**2 + (pooling == "cls")
    logits = model(images)
    assert logits.shape == (batch, classes)
    assert logits.dtype == torch.float32


def test_pixels_are_normalised_with_the_mean_and_the_deviation_of_the_config() -> None:
    model = _model(replace(SMALL, pixel_mean=100.0, pixel_std=50.0))
    kernel = model.patch.weight.sum((1, 2, 3))
    for pixel, normalised in ((100.0, 0.0), (150.0, 1.0), (0.0, -2.0)):
        embedded = model.embed(torch.full((1, 1, 8, 8), pixel, dtype=torch.float64))
        expected = normalised * kernel + model.patch.bias + model.position
        torch.testing.assert_close(embedded, expected, rtol=0, atol=1e-12)


def test_a_seed_repeats_the_weights() -> None:
    first, second = _model(SMALL), _model(SMALL)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_what_a_block_adds_starts_smaller_in_a_deeper_network() -> None:
    spread = []
    for depth in (2, 32):
        torch.manual_seed(0)
        blocks = VisionParaFormer(replace(SMALL, depth=depth)).blocks[:2]
        spread.append(torch.cat([torch.cat([b.attention.out.weight, b.down.weight], 1) for b in blocks]).detach().std())
    assert float(spread[0] / spread[1]) == pytest.approx(4, rel=0.2)


def test_a_learned_token_stands_before_the_patches_and_is_what_the_head_reads() -> None:
    model = _model(replace(SMALL, pooling="cls"))
    torch.nn.init.normal_(model.cls)
    embedded = model.embed(_images())
    assert embedded.shape == (3, 5, 16)
    expected = (model.cls + model.position[:, :1]).expand(3, 1, 16)
    torch.testing.assert_close(embedded[:, :1], expected, rtol=0, atol=1e-12)
    state = model.blocks(embedded)
    torch.testing.assert_close(model(_images()), model.head(model.norm(state)[:, 0]), rtol=0, atol=1e-12)


def test_without_a_learned_token_there_is_no_parameter_for_it() -> None:
    assert "cls" not in _model(SMALL).state_dict()
