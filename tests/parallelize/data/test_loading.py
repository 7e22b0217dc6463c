"""Inputs: spelling of shapes, and samples that fit the model or a sentence that says why they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parallelize.data import (
    load_samples,
)
from parallelize.data.tensor_spec import TensorSpec
from passes.errors import ParallelizeError

IMAGES = TensorSpec("images", ("batch", 1, 2, 2), torch.float32)
IDS = TensorSpec("ids", ("batch", "tokens"), torch.int64)
MASK = TensorSpec("mask", ("batch", "tokens"), torch.bool)


def _saved(path: Path, **arrays: Any) -> Path:
    np.savez(path / "data.npz", **arrays)
    return path / "data.npz"


def test_bytes_for_a_float_input_are_cast_and_not_scaled(tmp_path: Path) -> None:
    pixels = np.array([0, 100, 200, 255], np.uint8).reshape(1, 1, 2, 2)
    samples = load_samples(_saved(tmp_path, images=pixels), [IMAGES])
    assert samples.arrays["images"].dtype == torch.float32
    assert samples.arrays["images"].flatten().tolist() == [0, 100, 200, 255]
    assert samples.labels is None


def test_arrays_come_in_the_order_of_the_inputs_with_the_dtypes_of_the_inputs(tmp_path: Path) -> None:
    path = _saved(tmp_path, mask=np.ones((3, 5), np.int8), ids=np.arange(15, dtype=np.int32).reshape(3, 5), other=[1])
    samples = load_samples(path, [IDS, MASK])
    assert list(samples.arrays) == ["ids", "mask"]
    assert [array.dtype for array in samples.arrays.values()] == [torch.int64, torch.bool]
    assert [tuple(array.shape for array in batch) for batch in samples.batches(2)] == [
        ((2, 5), (2, 5)),
        ((1, 5), (1, 5)),
    ]


def test_foreign_byte_orders_are_read(tmp_path: Path) -> None:
    path = _saved(tmp_path, images=np.full((1, 1, 2, 2), 2.5, ">f8"))
    assert load_samples(path, [IMAGES]).arrays["images"].eq(2.5).all()


def test_labels_are_taken_by_name_and_follow_the_samples(tmp_path: Path) -> None:
    path = _saved(tmp_path, images=np.arange(16.0).reshape(4, 1, 2, 2), classes=np.array([3, 1, 2, 0], np.uint8))
    samples = load_samples(path, [IMAGES], labels="classes")
    assert len(samples) == 4
    for chosen in (samples.take([2, 0]), samples.take(torch.tensor([2, 0]))):
        assert chosen.labels is not None
        assert chosen.labels.tolist() == [2, 3]
        assert chosen.arrays["images"][:, 0, 0, 0].tolist() == [8, 0]
    assert samples.head(3).labels is not None
    assert len(samples.head(3)) == 3


def test_an_npy_will_do_for_the_only_input(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.zeros((2, 1, 2, 2), np.uint8))
    assert len(load_samples(tmp_path / "data.npy", [IMAGES])) == 2
    with pytest.raises(ParallelizeError, match=r"it holds an array without a name, the model reads 'ids', 'mask'\."):
        load_samples(tmp_path / "data.npy", [IDS, MASK])


def test_the_first_axis_counts_samples_even_when_the_batch_is_fixed(tmp_path: Path) -> None:
    path = _saved(tmp_path, x=np.zeros((7, 4)))
    assert len(load_samples(path, [TensorSpec("x", (1, 4), torch.float32)])) == 7


def _refusal(path: Path, *specs: TensorSpec, labels: str | None = None) -> tuple[str, str]:
    with pytest.raises(ParallelizeError) as caught:
        load_samples(path, specs, labels)
    return str(caught.value).replace(str(path), "FILE"), caught.value.hint


def test_an_array_under_another_name_is_refused_with_both_names(tmp_path: Path) -> None:
    message, hint = _refusal(_saved(tmp_path, x=np.zeros((2, 1, 2, 2)), y=[1]), IMAGES)
    assert message == "FILE has no array 'images': it holds 'x', 'y', the model reads 'images'."
    assert "numpy.savez(FILE, images=array)" in hint


GOOD = np.zeros((3, 1, 2, 2), np.float32)
NAN, INFINITE = GOOD.copy(), GOOD.copy()
NAN[1, 0, 0, 1] = np.nan
INFINITE[2] = -np.inf


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (GOOD[:, 0], "The array 'images' of FILE has the shape 3x2x2, the model reads batchx1x2x2."),
        (np.zeros((3, 3, 2, 2)), "The array 'images' of FILE has the shape 3x3x2x2, the model reads batchx1x2x2."),
        (NAN, "The array 'images' of FILE has NaN or infinity as float32, first in sample 1."),
        (INFINITE, "The array 'images' of FILE has NaN or infinity as float32, first in sample 2."),
        (GOOD.astype(float) + 1e39, "The array 'images' of FILE has NaN or infinity as float32, first in sample 0."),
        (GOOD[:0], "FILE holds no samples."),
        (GOOD.astype("U1"), "The array 'images' of FILE holds <U1 values, the model reads float32."),
        (GOOD.astype(complex), "The array 'images' of FILE holds complex128 values, the model reads float32."),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, array: np.ndarray, sentence: str) -> None:
    assert _refusal(_saved(tmp_path, images=array), IMAGES)[0] == sentence


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        (
            {"ids": np.full((2, 3), 0.5), "mask": np.ones((2, 3), bool)},
            "is float64 with fractions, the model reads int64.",
        ),
        ({"ids": np.zeros((2, 3), int), "mask": np.ones((1, 3), bool)}, "'ids' has 2, 'mask' has 1."),
        (
            {"ids": np.zeros((2, 3), int), "mask": np.ones((2, 4), bool)},
            "The dimension 'tokens' is 3 in the array 'ids' of FILE and 4 in 'mask'.",
        ),
        ({"ids": np.zeros((2, 3), int), "mask": np.full((2, 3), 2)}, "has values from 2 to 2, the model reads bool."),
        (
            {"ids": np.full((2, 3), 2**64 - 1, np.uint64), "mask": np.ones((2, 3), bool)},
            f"has values from {2**64 - 1} to {2**64 - 1}, the model reads int64.",
        ),
    ],
)
def test_values_and_lengths_that_would_be_misread_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], sentence: str
) -> None:
    assert _refusal(_saved(tmp_path, **arrays), IDS, MASK)[0].endswith(sentence)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (np.zeros(2, int), "The labels 'y' of FILE are int64 of the shape 2."),
        (np.zeros((3, 1), int), "The labels 'y' of FILE are int64 of the shape 3x1."),
        (np.zeros(3), "The labels 'y' of FILE are float64 of the shape 3."),
    ],
)
def test_labels_that_are_not_one_integer_for_each_sample_are_refused(
    tmp_path: Path, labels: np.ndarray, sentence: str
) -> None:
    message, hint = _refusal(_saved(tmp_path, images=GOOD, y=labels), IMAGES, labels="y")
    assert message == sentence
    assert "each of the 3 samples" in hint


def test_absent_labels_are_refused_with_the_names_there_are(tmp_path: Path) -> None:
    message, hint = _refusal(_saved(tmp_path, images=GOOD, y=[0, 1, 2]), IMAGES, labels="labels")
    assert message == "FILE has no array of labels 'labels': it holds 'images', 'y'."
    assert "--labels" in hint


PADDED = (TensorSpec("ids", ("batch", 3), torch.int64), TensorSpec("attention_mask", ("batch", 3), torch.int64))
TOKENS = np.ones((2, 3), np.int64)


def test_an_attention_mask_is_found_by_itself_and_any_other_by_its_name(tmp_path: Path) -> None:
    path = _saved(tmp_path, ids=TOKENS, attention_mask=np.array([[1, 1, 0], [1, 1, 1]]))
    assert load_samples(path, PADDED).mask == "attention_mask"
    assert load_samples(path, PADDED, mask="ids").mask == "ids"
    assert load_samples(path, PADDED[:1]).mask is None


@pytest.mark.parametrize("values", [[[0, 0, 0], [0, 0, 0]], [[0, -9, 0], [0, 0, 0]]], ids=["all masked", "added"])
def test_an_attention_mask_of_another_meaning_is_not_taken_for_one_of_padding(
    tmp_path: Path, values: list[list[int]]
) -> None:
    path = _saved(tmp_path, ids=TOKENS, attention_mask=np.array(values))
    assert load_samples(path, PADDED).mask is None


def test_masks_that_are_none_are_refused(tmp_path: Path) -> None:
    specs = (*PADDED, TensorSpec("x", ("batch", 3, 1), torch.float32))
    path = _saved(tmp_path, ids=TOKENS, attention_mask=0 * TOKENS, x=np.zeros((2, 3, 1)))
    for name, sentence in (
        ("padding", "The model has no input 'padding': it reads 'ids', 'attention_mask', 'x'."),
        ("x", "The mask 'x' has the shape 2x3x1."),
        ("attention_mask", f"The mask 'attention_mask' of {path} is 0 everywhere."),
    ):
        with pytest.raises(ParallelizeError) as caught:
            load_samples(path, specs, mask=name)
        assert str(caught.value) == sentence
