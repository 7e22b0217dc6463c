"""Arrays that are written part by part are read as wholes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from parallelize.data.npz_file import Parts, write_npz


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64, torch.bool, torch.complex64])
def test_parts_come_back_as_one_array_of_their_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    whole = (10 * torch.randn(7, 3, 2)).to(dtype)
    write_npz(tmp_path / "a.npz", {"file": Parts(whole.shape, dtype, iter(whole.split(3)))})
    found = np.load(tmp_path / "a.npz")["file"]
    assert torch.equal(torch.from_numpy(found), whole)


def test_what_numpy_does_not_have_is_written_as_float32(tmp_path: Path) -> None:
    whole = torch.randn(4, 2).bfloat16()
    write_npz(tmp_path / "a.npz", {"y": Parts(whole.shape, whole.dtype, [whole])})
    assert torch.equal(torch.from_numpy(np.load(tmp_path / "a.npz")["y"]), whole.float())


@pytest.mark.parametrize("value", [torch.tensor(2.5), torch.randn(4, 3).T, torch.zeros(0, 3)])
def test_numbers_transposed_and_empty_arrays_come_back_too(value: Tensor, tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", {"y": Parts(value.shape, value.dtype, [value])})
    found = torch.from_numpy(np.load(tmp_path / "a.npz")["y"])
    assert found.shape == value.shape
    assert torch.equal(found, value)
