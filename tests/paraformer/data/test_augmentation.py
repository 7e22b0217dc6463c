"""Augmentation moves and mirrors whole images and does no more, and a seed repeats it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from paraformer.data.augmentation import augment
from tests.paraformer.idx_files import stripes


def _augment(images: Tensor, seed: int, shift: int = 2) -> Tensor:
    return augment(images, torch.Generator().manual_seed(seed), shift)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (5, 1, 6, 9), (4, 3, 6, 5)])
def test_augmentation_keeps_shape_and_dtype_and_leaves_its_input_alone(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    images = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = images.clone()
    augmented = _augment(images, 0)
    assert augmented.shape == shape
    assert augmented.dtype == dtype
    assert torch.equal(images, before)


def test_a_seed_repeats_an_augmentation_and_another_seed_does_not() -> None:
    images = stripes(16, 8, 0).inputs[0]
    assert torch.equal(_augment(images, 3), _augment(images, 3))
    assert not torch.equal(_augment(images, 3), _augment(images, 4))


def test_augmentation_does_not_touch_the_global_random_state() -> None:
    before = torch.get_rng_state()
    _augment(stripes(4, 8, 0).inputs[0], 0)
    assert torch.equal(torch.get_rng_state(), before)


def _shifts_and_mirrors(image: Tensor, shift: int) -> list[Tensor]:
    """Every picture that augmentation may make of one image (height, width)."""
    height, width = image.shape
    found = []
    for mirrored in (image, image.flip(1)):
        for down in range(-shift, shift + 1):
            for right in range(-shift, shift + 1):
                moved = torch.zeros_like(image)
                rows, columns = slice(max(down, 0), height + min(down, 0)), slice(max(right, 0), width + min(right, 0))
                back = slice(max(-down, 0), height - max(down, 0)), slice(max(-right, 0), width - max(right, 0))
                moved[rows, columns] = mirrored[back]
                found.append(moved)
    return found


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32), shift=st.integers(0, 3), height=st.integers(4, 6), width=st.integers(4, 6))
def test_each_augmented_image_is_the_image_shifted_and_perhaps_mirrored(
    seed: int, shift: int, height: int, width: int
) -> None:
    images = torch.randperm(3 * height * width, generator=torch.Generator().manual_seed(seed)).reshape(
        3, 1, height, width
    )
    for image, augmented in zip(images, _augment(images, seed, shift), strict=True):
        assert any(torch.equal(augmented[0], one) for one in _shifts_and_mirrors(image[0], shift))


def test_images_are_shifted_in_all_directions_and_half_of_them_are_mirrored() -> None:
    image = torch.arange(1, 37).reshape(1, 1, 6, 6)
    augmented = _augment(image.expand(400, 1, 6, 6), 0, shift=1)
    candidates = _shifts_and_mirrors(image[0, 0], 1)
    counts = [int((augmented[:, 0] == one).flatten(1).all(1).sum()) for one in candidates]
    assert sum(counts) == 400
    assert min(counts) > 0
    assert 160 < sum(counts[9:]) < 240


def test_all_channels_of_an_image_move_alike() -> None:
    grey = torch.randint(0, 256, (8, 1, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    coloured = _augment(torch.cat([grey, grey + 1, grey + 2], 1), 5)
    inside = coloured[:, 0] != 0
    for channel in (1, 2):
        assert torch.equal(coloured[:, channel][inside], (coloured[:, 0] + channel)[inside])


def test_images_that_have_a_right_and_a_left_are_not_mirrored() -> None:
    image = torch.arange(36).reshape(1, 1, 6, 6)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(augment(image.expand(50, 1, 6, 6), generator, 0, mirrors=False), image.expand(50, 1, 6, 6))
