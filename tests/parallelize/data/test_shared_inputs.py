"""Networks that read the same inputs share their samples, and those that do not are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from parallelize.data.shared_inputs import share
from parallelize.data.tensor_spec import TensorSpec
from passes.errors import CheckError, ParallelizeError

X = TensorSpec("x", ("batch", 3), torch.float32)
IDS = TensorSpec("ids", ("batch", "tokens"), torch.int64)


def test_inputs_go_by_their_names_where_all_are_the_same_and_else_by_their_places() -> None:
    other = [TensorSpec("input_0", ("n", 3), torch.float32), TensorSpec("input_1", ("n", "m"), torch.int64)]
    shared = share({"ours": [X, IDS], "turned": [IDS, X], "named otherwise": other})
    assert shared.specs == (X, IDS)
    batch = [torch.zeros(1), torch.ones(1)]
    assert shared.fed("turned", batch) == batch[::-1]
    assert shared.fed("named otherwise", batch) == batch


def test_what_is_fixed_in_one_network_is_fixed_for_all_and_dtypes_of_a_kind_are_alike() -> None:
    fixed = [TensorSpec("x", (4, 3), torch.float16), TensorSpec("ids", ("batch", 7), torch.int32)]
    for order in ({"a": [X, IDS], "b": fixed}, {"b": fixed, "a": [X, IDS]}):
        assert [spec.shape for spec in share(order).specs] == [(4, 3), ("batch", 7)]
    samples = share({"a": [X], "b": fixed[:1]}).samples(None, 9, 0)
    assert (samples.fixed, len(samples)) == (4, 9)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (TensorSpec("x", ("batch", 4), torch.float32), "batchx4@float32"),
        (TensorSpec("x", ("batch", 3, 1), torch.float32), "batchx3x1@float32"),
        (TensorSpec("x", ("batch", 3), torch.int64), "batchx3@int64"),
        (TensorSpec("x", (), torch.float32), "a single number@float32"),
    ],
)
def test_shapes_that_no_samples_can_have_are_refused(other: TensorSpec, told: str) -> None:
    with pytest.raises(CheckError) as caught:
        share({"a.onnx": [X], "b.onnx": [other]})
    assert str(caught.value) == f"b.onnx reads 'x' as {told}, where it is batchx3@float32 before."


def test_sizes_fixed_one_after_another_are_held_against_each_other() -> None:
    sizes = {label: [TensorSpec("x", ("batch", size), torch.float32)] for label, size in (("b", 5), ("c", 6))}
    with pytest.raises(CheckError, match=r"^c reads 'x' as batchx6@float32, where it is batchx5@float32 before\.$"):
        share({"a": [TensorSpec("x", ("batch", "width"), torch.float32)], **sizes})


def test_another_number_of_inputs_is_refused() -> None:
    with pytest.raises(CheckError, match=r"^b reads 1 inputs, a reads 2\.$"):
        share({"a": [X, IDS], "b": [X]})


def test_samples_are_read_from_a_file_and_a_batch_is_what_is_asked_for_unless_it_is_fixed(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros((8, 3)))
    free, fixed = share({"a": [X]}), share({"a": [TensorSpec("x", (4, 3), torch.float32)]})
    samples = free.samples(tmp_path / "data.npz", 2, 0)
    assert len(samples) == 8
    assert (free.batch_size(samples, 3, 1), free.batch_size(samples, None, 5)) == (3, 5)
    samples = fixed.samples(tmp_path / "data.npz", 2, 0)
    assert (fixed.batch_size(samples, 4, 1), fixed.batch_size(samples, None, 5)) == (4, 4)
    with pytest.raises(ParallelizeError, match=r"^The batch is fixed to 4, not 3\.$"):
        fixed.batch_size(samples, 3, 1)
