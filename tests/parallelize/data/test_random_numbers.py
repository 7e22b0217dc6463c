"""Random samples repeat with their seed, fit the specs, and are such that a model may give numbers on them."""

from __future__ import annotations

import pytest
import torch

from parallelize.data import alternatives, random_samples
from parallelize.data.tensor_spec import TensorSpec
from passes.errors import ParallelizeError

FLOAT, INT, BOOL = torch.float32, torch.int64, torch.bool
IMAGES = TensorSpec("images", ("batch", 1, 2, 2), FLOAT)
IDS = TensorSpec("ids", ("batch", "tokens"), INT)
MASK = TensorSpec("mask", ("batch", "tokens"), BOOL)


def test_random_samples_repeat_with_their_seed_and_fit_the_specs() -> None:
    specs = [IMAGES, IDS, MASK, TensorSpec("pairs", ("batch", "2*tokens"), torch.float16)]
    first, again, other = (random_samples(specs, 5, seed) for seed in (0, 0, 1))
    assert [tuple(array.shape) for array in first.arrays.values()] == [(5, 1, 2, 2), (5, 16), (5, 16), (5, 32)]
    assert [array.dtype for array in first.arrays.values()] == [spec.dtype for spec in specs]
    assert set(first.arrays["ids"].unique().tolist()) == {0, 1}
    for name, array in first.arrays.items():
        assert torch.equal(array, again.arrays[name])
    assert not torch.equal(first.arrays["images"], other.arrays["images"])


def test_a_random_mask_masks_nothing() -> None:
    specs = [TensorSpec("attention_mask", ("batch", "tokens"), torch.int64), MASK]
    arrays = random_samples(specs, 5, 0).arrays
    assert [(int(array.sum()), array.dtype) for array in arrays.values()] == [(80, torch.int64), (80, torch.bool)]


def test_an_input_without_an_axis_of_samples_is_refused() -> None:
    with pytest.raises(ParallelizeError, match=r"The input 't' is a single number: it has no axis of samples\."):
        random_samples([TensorSpec("t", (), torch.float32)], 2, 0)


def test_random_samples_of_a_fixed_program_and_of_inputs_without_samples() -> None:
    samples = random_samples(
        [TensorSpec("x", (3, 2), FLOAT), TensorSpec("table", (12, 3), FLOAT), TensorSpec("t", (), FLOAT)], 8, 0
    )
    assert (len(samples), samples.fixed, samples.whole) == (8, 3, ("table", "t"))
    assert [tuple(value.shape) for value in samples.batch(4)] == [(3, 2), (12, 3), ()]


def test_random_lengths_are_whole_and_masks_mask_nothing() -> None:
    specs = [
        TensorSpec("x", ("batch", 12, 4), FLOAT),
        TensorSpec("lengths", ("batch",), INT),
        TensorSpec("key_padding_mask", ("batch", 12), BOOL),
        TensorSpec("attention_mask", ("batch", 12), INT),
    ]
    arrays = random_samples(specs, 3, 0).arrays
    assert arrays["lengths"].tolist() == [12, 12, 12]
    assert not arrays["key_padding_mask"].any()
    assert arrays["attention_mask"].all()


def test_alternatives_read_numbers_of_one_axis_as_lengths() -> None:
    specs = [TensorSpec("x", ("batch", 12, 4), FLOAT), TensorSpec("n", ("batch",), INT)]
    assert any(other.arrays["n"].eq(12).all() for other in alternatives(specs, 3, 0))


def test_alternatives_read_masks_the_other_way_round_and_have_only_ones_or_positive_values() -> None:
    others = [samples.arrays for samples in alternatives([IMAGES, MASK, IDS], 4, 0)]
    assert not others[0]["mask"].any()
    assert any(arrays["ids"].eq(1).all() for arrays in others)
    assert others[-1]["images"].min() >= 0
    assert [arrays["mask"].all().item() for arrays in others[1:]] == [True, True, True]
    assert len(list(alternatives([IMAGES], 4, 0))) == 1


def test_a_length_is_a_number_of_one_axis_by_its_name_and_as_long_as_the_longest_axis_of_tokens() -> None:
    lengths = TensorSpec("x_lengths", ("batch",), INT)
    specs = [
        TensorSpec("mask", ("batch", 7), BOOL),
        lengths,
        TensorSpec("valid", ("batch",), BOOL),
        TensorSpec("n", ("batch",), INT),
        TensorSpec("token_lengths", ("batch", 3), INT),
    ]
    arrays = random_samples(specs, 40, 0).arrays
    assert arrays["x_lengths"].eq(3).all()  # the second axis of the first input that is no mask
    assert all(set(arrays[name].int().unique().tolist()) == {0, 1} for name in ("valid", "n", "token_lengths"))
    assert random_samples([specs[0], lengths], 4, 0).arrays["x_lengths"].eq(7).all()
    assert random_samples([lengths], 4, 0).arrays["x_lengths"].eq(16).all()


def test_the_first_alternative_for_integers_takes_every_number_of_one_axis_for_a_length() -> None:
    whole, ones, positive = alternatives([IDS, TensorSpec("n", ("batch",), INT)], 8, 0)
    assert (whole.arrays["n"].unique().tolist(), ones.arrays["n"].unique().tolist()) == ([16], [1])
    assert set(whole.arrays["ids"].unique().tolist()) == {0, 1}
    assert positive.arrays["n"].unique().tolist() == [16]
