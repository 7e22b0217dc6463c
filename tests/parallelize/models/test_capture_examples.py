"""Example inputs for the exporter: one name is one size, and a free first axis has a size of its own."""

from __future__ import annotations

import pytest
import torch

from parallelize.models.capture_examples import dynamic_dims, multiple, resize
from passes.errors import ParallelizeError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("batch", (1, "batch")),
        ("4*batch", (4, "batch")),
        ("1*batch", (1, "batch")),
        ("a*b", (1, "a*b")),
        ("4*4", (1, "4*4")),
        ("", (1, "")),
    ],
)
def test_a_name_may_be_a_multiple_of_another(name: str, expected: tuple[int, str]) -> None:
    assert multiple(name) == expected


def test_batches_are_the_first_axes_as_long_as_the_first_tensors() -> None:
    examples = [torch.tensor(2.0), torch.zeros(3, 4), torch.zeros(6, 4), torch.zeros(3)]
    assert dynamic_dims(examples, "batch", "net") == [{}, {0: "batch"}, {}, {0: "batch"}]
    assert dynamic_dims(examples, None, "net") == [{}, {}, {}, {}]
    given = [{}, {0: "batch", 1: "tokens"}, {}, {}]
    assert dynamic_dims(examples, given, "net") == given
    with pytest.raises(ParallelizeError, match=r"^net reads 4 tensors, but free dimensions are given for 1\.$"):
        dynamic_dims(examples, [{0: "batch"}], "net")


def test_a_free_first_axis_has_a_size_that_nothing_else_has() -> None:
    (x,) = resize([torch.zeros(1, 3, 5, 7)], [{0: "batch"}])
    assert x.shape == (11, 3, 5, 7)
    x, codes = resize([torch.zeros(1, 12), torch.zeros(4, 12)], [{0: "batch"}, {0: "4*batch"}])
    assert (x.shape, codes.shape) == ((5, 12), (20, 12))  # of 3 samples there would be 12 rows
    a, b = resize([torch.zeros(2, 4), torch.zeros(2, 4)], [{0: "rows"}, {0: "batch"}])
    assert (len(a), len(b)) == (3, 5)


def test_fixed_first_axes_and_sizes_beyond_the_first_primes_are_kept_apart_too() -> None:
    fixed, free = resize([torch.zeros(3, 4), torch.zeros(1, 5)], [{}, {0: "batch"}])
    assert (fixed.shape, free.shape) == ((3, 4), (7, 5))
    primes = [3, 5, 7, 11, 13, 17, 19, 23, 24]
    *_, free = resize([*(torch.zeros(size) for size in primes), torch.zeros(1)], [*({} for _ in primes), {0: "batch"}])
    assert len(free) == 25


def test_other_free_axes_are_as_long_as_in_the_example_and_no_shorter_than_two() -> None:
    x, mask = resize([torch.zeros(1, 1), torch.zeros(1, 9)], [{0: "batch", 1: "tokens"}, {0: "batch", 1: "tokens"}])
    assert x.shape == mask.shape == (3, 16)
    x, mask = resize([torch.zeros(1, 9), torch.zeros(1, 1)], [{0: "batch", 1: "tokens"}, {0: "batch", 1: "tokens"}])
    assert x.shape == mask.shape == (3, 9)


def test_values_are_repeated_or_cut_and_dtypes_stay() -> None:
    ids = torch.tensor([[4, 7]])
    (x,) = resize([ids], [{0: "batch"}])
    assert x.tolist() == [[4, 7]] * 3
    assert x.dtype == torch.int64
    (x,) = resize([torch.arange(8).reshape(8, 1)], [{0: "batch"}])
    assert x.tolist() == [[0], [1], [2]]
    (x,) = resize([torch.zeros(0, 4, dtype=torch.uint8)], [{0: "batch"}])
    assert (x.shape, x.dtype) == ((3, 4), torch.uint8)


def test_one_tensor_given_twice_becomes_two() -> None:
    x = torch.zeros(2, 3)
    first, second = resize([x, x], [{}, {}])
    assert first is not second
    assert first.data_ptr() != second.data_ptr() != x.data_ptr()
