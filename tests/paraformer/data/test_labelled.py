"""Labelled samples: parts of them, what makes a data set wrong, and what is kept apart for tests."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paraformer.data.labelled import Dataset, Labelled, checked, kept_apart
from paraformer.errors import DatasetError


def _data(*labels: int, size: int = 2) -> Labelled:
    return Labelled((torch.arange(len(labels) * size).reshape(-1, size),), torch.tensor(labels, dtype=torch.int64))


def _set(train: Labelled, test: Labelled) -> Dataset:
    return Dataset("set", train, test, ("a", "b"))


def test_the_first_samples_keep_their_labels() -> None:
    first = _data(0, 1, 0).head(2)
    assert first.inputs[0].tolist() == [[0, 1], [2, 3]]
    assert first.labels.tolist() == [0, 1]
    assert len(_data(0, 1).head(5)) == 2
    assert len(_data(0, 1).head(None)) == 2


def test_what_a_checkpoint_records_names_the_data_and_its_sizes() -> None:
    assert _set(_data(*[0] * 1200), _data(1)).what == "set, 1,200 training images; top1 on the 1 test images"


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        (_data(), _data(0), "set has no training images"),
        (_data(0), _data(), "set has no test images"),
        (Labelled(_data(0, 1).inputs, torch.tensor([0])), _data(0), "set holds 2 training images but 1 labels"),
        (_data(0), _data(2), "set has the test label 2, but classes from 0 to 1"),
        (_data(-1), _data(0), "set has the training label -1"),
        (_data(0), _data(0, size=3), "training samples of 2 and test samples of 3"),
    ],
)
def test_samples_and_labels_that_do_not_fit_are_refused_with_the_hint(
    train: Labelled, test: Labelled, said: str
) -> None:
    with pytest.raises(DatasetError, match=said) as caught:
        checked(_set(train, test), "Look there.")
    assert caught.value.hint == "Look there."


@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.integers(0, 3))
def test_a_fifth_of_each_class_is_kept_for_tests_and_nothing_is_lost(labels: list[int], seed: int) -> None:
    data = Labelled((torch.arange(len(labels)),), torch.tensor(labels))
    train, test = kept_apart(data, seed)
    assert sorted([*train.inputs[0].tolist(), *test.inputs[0].tolist()]) == list(range(len(labels)))
    for number in set(labels):
        assert int((test.labels == number).sum()) == labels.count(number) // 5
    for part in (train, test):
        assert torch.equal(part.labels, data.labels[part.inputs[0]])
    again = kept_apart(data, seed)[1]
    assert torch.equal(again.inputs[0], test.inputs[0])
