"""Which inputs have samples, how they are fed, and what a batch is where the program fixes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parallelize.data import Samples, load_samples
from parallelize.data.tensor_spec import TensorSpec
from passes.errors import ParallelizeError

FLOAT, INT = torch.float32, torch.int64
X = TensorSpec("x", ("batch", 3), FLOAT)
FIXED = TensorSpec("x", (3, 2), FLOAT)


def _load(path: Path, *specs: TensorSpec, **arrays: Any) -> Samples:
    np.savez(path / "data.npz", **arrays)
    return load_samples(path / "data.npz", specs)


def _shapes(samples: Samples, size: int = 4) -> list[tuple[int, ...]]:
    return [tuple(value.shape) for value in samples.batch(size)]


def test_a_fixed_batch_is_filled_up_with_its_own_samples_and_what_fills_it_is_cut(tmp_path: Path) -> None:
    samples = _load(tmp_path, FIXED, x=np.arange(14.0).reshape(7, 2))
    batches, counts = list(samples.batches(100)), list(samples.counts(100))
    assert counts == [3, 3, 1]
    assert [tuple(x.shape) for (x,) in batches] == [(3, 2)] * 3
    assert batches[2][0][:, 0].tolist() == [12, 12, 12]
    kept = torch.cat([samples.cut(x, count) for (x,), count in zip(batches, counts, strict=True)])
    assert torch.equal(kept, samples.arrays["x"])


def test_values_of_several_rows_for_each_sample_are_cut_in_whole_samples(tmp_path: Path) -> None:
    samples = _load(tmp_path, FIXED, x=np.zeros((7, 2)))
    assert samples.cut(torch.arange(6), 1).tolist() == [0, 1]
    assert samples.cut(torch.arange(5), 1).tolist() == [0, 1, 2, 3, 4]  # has no axis of samples


@pytest.mark.parametrize(
    ("spec", "array", "fed", "fixed"),
    [
        (TensorSpec("y", (12, 3), FLOAT), np.zeros((12, 3)), (12, 3), None),  # a table of positions
        (TensorSpec("y", (2, "edges"), INT), np.zeros((2, 9), int), (2, 9), None),  # edges of a graph
        (TensorSpec("y", (), FLOAT), np.float64(0.5), (), None),  # one time step for all
        (TensorSpec("y", (), FLOAT), np.zeros(7), (), 1),  # a time step for each sample
        (TensorSpec("y", (12, 3), FLOAT), np.zeros((7, 12, 3)), (12, 3), 1),  # positions of each sample
        (TensorSpec("y", (1, 5), FLOAT), np.zeros((7, 5)), (1, 5), 1),  # fixed where the other is free
        (TensorSpec("y", (5, 2), FLOAT), np.zeros((35, 2)), (5, 2), 1),  # five rows for each sample, one at a time
        (TensorSpec("y", ("4*batch", 2), INT), np.zeros((28, 2), int), (16, 2), None),  # codebooks
        (TensorSpec("y", ("others", 2), FLOAT), np.zeros((3, 2)), (3, 2), None),  # free, but no samples
    ],
)
def test_an_input_is_fed_as_the_program_takes_it(
    tmp_path: Path, spec: TensorSpec, array: Any, fed: tuple[int, ...], fixed: int | None
) -> None:
    samples = _load(tmp_path, X, spec, x=np.zeros((7, 3)), y=array)
    assert (len(samples), samples.fixed) == (7, fixed)
    assert _shapes(samples) == [(fixed or 4, 3), fed]


def test_rows_of_a_sample_stay_together(tmp_path: Path) -> None:
    codes = TensorSpec("codes", ("2*batch", 1), INT)
    samples = _load(tmp_path, X, codes, x=np.zeros((3, 3)), codes=np.arange(6).reshape(6, 1))
    assert samples.take([2, 0]).arrays["codes"].flatten().tolist() == [4, 5, 0, 1]


def test_where_nothing_is_free_the_data_tells_which_inputs_have_samples(tmp_path: Path) -> None:
    ids, table = TensorSpec("ids", (2, 4), INT), TensorSpec("table", (12, 3), FLOAT)
    samples = _load(tmp_path, table, ids, table=np.zeros((12, 3)), ids=np.zeros((7, 4), int))
    assert (samples.whole, samples.fixed, len(samples)) == (("table",), 2, 7)
    codes = TensorSpec("codes", (8, 4), INT)
    both = _load(tmp_path, codes, ids, codes=np.zeros((28, 4), int), ids=np.zeros((7, 4), int))
    assert (_shapes(both), len(both)) == ([(8, 4), (2, 4)], 7)


def test_arrays_as_large_as_the_program_reads_are_one_batch(tmp_path: Path) -> None:
    samples = _load(tmp_path, FIXED, x=np.zeros((3, 2)))
    assert (len(samples), samples.fixed) == (3, 3)


def test_arrays_of_other_numbers_of_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParallelizeError, match="differ in their number of samples: 'x' has 7, 'y' has 5"):
        _load(tmp_path, X, TensorSpec("y", (1, 5), FLOAT), x=np.zeros((7, 3)), y=np.zeros((5, 5)))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "uint16", "bool", "int32"])
def test_data_stays_as_it_is_stored_and_batches_are_cast(tmp_path: Path, dtype: str) -> None:
    samples = _load(tmp_path, X, x=np.ones((4, 3), dtype))
    assert samples.stored["x"].dtype.itemsize == max(np.dtype(dtype).itemsize, 4 if dtype == "uint16" else 1)
    assert samples.batch(2)[0].dtype == FLOAT
    assert samples.batch(2)[0].eq(1).all()


def test_floats_that_are_whole_are_numbers_of_tokens(tmp_path: Path) -> None:
    ids = TensorSpec("ids", ("batch", 2), INT)
    assert _load(tmp_path, ids, ids=np.full((3, 2), 7.0)).batch(1)[0].tolist() == [[7, 7]]
