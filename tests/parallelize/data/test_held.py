"""Data in memory in every form that users hold it in becomes the same arrays, and what cannot is refused."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from parallelize.data.held import UNNAMED, HeldArrays, held
from parallelize.data.loading import load_samples
from parallelize.data.tensor_spec import TensorSpec
from passes.errors import ParallelizeError

X = np.arange(24, dtype=np.float32).reshape(8, 3)
IDS = np.arange(40).reshape(8, 5)
SPECS = (TensorSpec("ids", ("batch", 5), torch.int64), TensorSpec("x", ("batch", 3), torch.float32))


class Columns:
    """As a dataset of Hugging Face: columns by name, each a sequence of samples."""

    column_names = ("ids", "x", "text", "ragged")

    def __getitem__(self, name: str) -> Sequence[Any]:
        every: dict[str, Sequence[Any]] = {
            "ids": IDS.tolist(),
            "x": [torch.from_numpy(row) for row in X],
            "text": ["a"] * 8,
            "ragged": [[1], *[[1, 2]] * 7],
        }
        return every[name]


class Column(list[Any]):
    """A column of one, which knows what it is called."""

    column_name = "x"


def _generated() -> Iterator[dict[str, torch.Tensor]]:
    for start in (0, 5):
        yield {"ids": torch.from_numpy(IDS[start : start + 5]), "x": torch.from_numpy(X[start : start + 5])}


FORMS: dict[str, Any] = {
    "arrays": {"ids": IDS, "x": X},
    "tensors and lists": {"ids": torch.from_numpy(IDS), "x": X.tolist()},
    "what a tokenizer returns": UserDict(ids=IDS, x=X, labels=None),
    "a list of batches": list(_generated()),
    "a generator": _generated(),
    "a loader of tuples": DataLoader(TensorDataset(torch.from_numpy(IDS), torch.from_numpy(X)), batch_size=3),
    "a loader with labels behind": DataLoader(
        TensorDataset(torch.from_numpy(IDS), torch.from_numpy(X), torch.arange(8)), batch_size=3
    ),
    "a dataset": Columns(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_samples(form: str) -> None:
    samples = load_samples(held(FORMS[form]), SPECS)
    assert len(samples) == 8
    for name, expected in (("ids", IDS), ("x", X)):
        assert torch.equal(samples.arrays[name], torch.from_numpy(expected))


ALONE: dict[str, Any] = {
    "an array": X,
    "a tensor": torch.from_numpy(X),
    "batches of one tensor": [torch.from_numpy(X[:4]), torch.from_numpy(X[4:])],
    "a loader": DataLoader(TensorDataset(torch.from_numpy(X)), batch_size=3),
    "a column": Column(X.tolist()),
}


@pytest.mark.parametrize("form", ALONE)
def test_a_model_of_one_input_needs_no_name(form: str) -> None:
    found = held(ALONE[form])
    assert list(found.arrays) == [UNNAMED]
    assert torch.equal(load_samples(found, SPECS[1:]).arrays["x"], torch.from_numpy(X))


def test_labels_are_named_by_their_place() -> None:
    loader = DataLoader(TensorDataset(torch.from_numpy(X), torch.arange(8)), batch_size=3)
    labels = load_samples(held(loader), SPECS[1:], labels="1").labels
    assert labels is not None
    assert labels.tolist() == list(range(8))


def test_batches_that_were_padded_by_themselves_are_padded_to_the_longest() -> None:
    batches = [
        {"ids": torch.ones(2, length), "attention_mask": torch.ones(2, length), "rows": torch.ones(2, 3)}
        for length in (2, 4)
    ]
    found = held(batches).arrays
    assert found["attention_mask"].sum(1).tolist() == [2, 2, 4, 4]
    assert found["ids"].tolist() == found["attention_mask"].tolist()
    assert found["rows"].shape == (4, 3)


def test_half_precision_and_what_may_not_be_written_to_are_read() -> None:
    frozen = X.copy()
    frozen.flags.writeable = False
    assert held({"x": torch.ones(2, 3, dtype=torch.bfloat16)}).arrays["x"].dtype == np.float32
    assert held(frozen).arrays[UNNAMED].flags.writeable


def test_what_is_held_already_stays() -> None:
    found = held({"x": X})
    assert held(found) is found
    assert found.named(["y"]) is found
    assert list(HeldArrays({"0": X, "1": X}).named(["a"]).arrays) == ["a", "1"]


REFUSED: dict[str, Any] = {
    "A int is no data": 3,
    "A str is no data": "data",
    "The data holds no batch": [],
    "A batch of the data is a str": ["a"],
    "Some batches of the data hold 'y' and others do not": [{"x": X}, {"x": X, "y": X}],
    "Samples of 'x' are 2 in one batch and 3 in another": [{"x": X}, {"x": X[:, :2]}],
    "A TensorDataset gives samples one by one": TensorDataset(torch.from_numpy(X)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_no_data_is_refused_in_a_sentence(message: str) -> None:
    with pytest.raises(ParallelizeError, match=message) as caught:
        held(REFUSED[message])
    assert caught.value.hint


def test_several_parts_and_rows_of_several_lengths_are_refused() -> None:
    class Parts(dict[str, Any]):
        column_names = {"train": ["x"], "test": ["x"]}  # noqa: RUF012  # as the library has it

    with pytest.raises(ParallelizeError, match="The data is split into 'train', 'test'"):
        held(Parts())
    with pytest.raises(ParallelizeError, match="'ragged' of the data holds object values"):
        load_samples(held(Columns()), [TensorSpec("ragged", ("batch", 2), torch.int64)])
