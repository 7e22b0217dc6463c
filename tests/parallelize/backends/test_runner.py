"""Inputs are handed to a runner in the dtypes that it reads."""

from __future__ import annotations

import pytest
import torch

from parallelize.backends.runner import fitting
from parallelize.data.tensor_spec import TensorSpec

SPECS = (TensorSpec("x", ("batch",), torch.float16), TensorSpec("ids", ("batch",), torch.int32))


def test_each_input_is_cast_to_what_its_place_reads_and_stays_itself_where_it_is_that() -> None:
    x, ids = torch.tensor([0.5, 2.0]), torch.tensor([3, 4])
    cast = fitting((x, ids), SPECS)
    assert [value.dtype for value in cast] == [torch.float16, torch.int32]
    assert [value.tolist() for value in cast] == [[0.5, 2.0], [3, 4]]
    assert all(ours is theirs for ours, theirs in zip(fitting(cast, SPECS), cast, strict=True))


def test_another_number_of_inputs_is_an_error_and_not_cut_off() -> None:
    with pytest.raises(ValueError, match="zip"):
        fitting((torch.ones(2),), SPECS)
