"""Dtypes and shapes of inputs, told by arrays and by what the model runs on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from parallelize.models.sources.data_specs import specs_of_arrays
from passes.errors import ParallelizeError


@pytest.mark.parametrize("saved", ["float16", "float32", "float64", "uint8", "int16", "int64", "bool"])
@pytest.mark.parametrize("own", [torch.float32, torch.float64])
def test_numbers_are_read_in_the_models_own_float_type(saved: str, own: torch.dtype) -> None:
    (spec,) = specs_of_arrays(nn.Linear(3, 2).to(own).eval(), {"input": np.zeros((5, 3), saved)})
    assert (spec.shape, spec.dtype) == (("batch", 3), own)


@pytest.mark.parametrize("saved", ["uint8", "int8", "uint16", "int32", "int64"])
def test_indices_stay_integers(saved: str) -> None:
    (spec,) = specs_of_arrays(nn.Embedding(9, 4).eval(), {"input": np.zeros((5, 3), saved)})
    assert spec.dtype == (torch.int32 if saved == "int32" else torch.int64)


class Rows(nn.Module):
    """Four rows of codes and one step for each sample, a table for all."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 2)

    def forward(self, x: Tensor, codes: Tensor, table: Tensor) -> Tensor:
        return x + self.embed(codes.reshape(-1, 4, 3)).sum(1) + table


def test_rows_of_a_sample_and_arrays_without_samples_are_told_by_lengths_and_by_running() -> None:
    arrays: dict[str | None, Any] = {"x": np.zeros((6, 3, 2)), "codes": np.zeros((24, 3), int)}
    arrays["table"] = np.zeros((3, 2))
    x, rows, table = specs_of_arrays(Rows().eval(), arrays)
    assert (x.shape, rows.shape, table.shape) == (("batch", 3, 2), ("4*batch", 3), (3, 2))


def test_arrays_of_text_are_refused() -> None:
    with pytest.raises(ParallelizeError, match="'input' is no array of samples"):
        specs_of_arrays(nn.Identity(), {"input": np.array(["a"])})
