"""Outputs of all samples as they are collected and written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from parallelize.data import Samples
from parallelize.data.samples import Feed
from parallelize.data.tensor_spec import TensorSpec
from parallelize.measuring.sample_outputs import SampleOutputs, write_outputs
from passes.errors import ParallelizeError

X = TensorSpec("x", ("batch", 3), torch.float64)
DATA = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _collected(spec: TensorSpec, values: dict[int, Tensor], samples: Samples | None = None) -> SampleOutputs:
    """An output of batches of so many samples."""
    found = SampleOutputs(spec, (X,), samples or Samples({"x": DATA}))
    for size, value in values.items():
        found.add(value, size, size)
    return found


def _written(output: SampleOutputs, folder: Path) -> Tensor:
    write_outputs([output], folder / "y.npz")
    return torch.from_numpy(np.load(folder / "y.npz")["y"])


def _spec(*shape: int | str) -> TensorSpec:
    return TensorSpec("y", shape, torch.float64)


def test_batches_come_one_after_another(tmp_path: Path) -> None:
    found = _written(_collected(_spec("batch", 3), {4: DATA[:4], 3: DATA[4:]}), tmp_path)
    assert torch.equal(found, DATA)


def test_samples_on_another_axis_stay_there_and_rows_of_a_sample_stay_together(tmp_path: Path) -> None:
    found = _collected(_spec(3, "batch"), {4: DATA[:4].T, 3: DATA[4:].T})
    assert torch.equal(_written(found, tmp_path), DATA.T)
    assert found.outputs is not None
    assert torch.equal(found.outputs[:], DATA)
    rows = DATA.repeat_interleave(2, 0)
    found = _collected(_spec("2*batch", 3), {4: rows[:8], 3: rows[8:]})
    assert torch.equal(_written(found, tmp_path), rows)
    assert found.outputs is not None
    assert found.outputs.shape == (7, 2, 3)


def test_an_output_without_samples_is_kept_once_and_refused_where_it_changes(tmp_path: Path) -> None:
    table = torch.arange(5.0)
    assert torch.equal(_written(_collected(_spec(5), {4: table, 3: table}), tmp_path), table)
    with pytest.raises(ParallelizeError, match="'y' has no axis of samples, but differs between batches"):
        _collected(_spec(5), {4: table, 3: table + 1})


def test_samples_of_several_sizes_are_refused() -> None:
    with pytest.raises(ParallelizeError, match="'y' has samples of the sizes 3 and 2"):
        _collected(_spec("batch", "tokens"), {4: DATA[:4], 3: DATA[4:, :2]})


def test_what_fills_a_batch_up_is_left_out(tmp_path: Path) -> None:
    samples = Samples({"x": DATA}, fixed=4)
    found = SampleOutputs(_spec(4, 3), (X,), samples)
    found.add(DATA[:4], 4, 4)
    found.add(DATA[[4, 5, 6, 4]], 4, 3)
    assert torch.equal(_written(found, tmp_path), DATA)


def test_a_network_of_one_sample_without_an_axis_has_one_output_for_each(tmp_path: Path) -> None:
    samples = Samples({"x": DATA}, feeds={"x": Feed(is_bare=True)}, fixed=1)
    found = SampleOutputs(_spec(3), (TensorSpec("x", (3,), torch.float64),), samples)
    for row in DATA:
        found.add(row, 1, 1)
    assert torch.equal(_written(found, tmp_path), DATA)
