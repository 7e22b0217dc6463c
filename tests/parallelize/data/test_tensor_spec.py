"""A shape with free dimensions in numbers."""

from __future__ import annotations

import pytest
import torch

from parallelize.data.tensor_spec import OTHER_SIZE, TensorSpec


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (5, 5),
        ("batch", 7),
        ("2*batch", 14),
        ("batch*tokens", 21),
        ("tokens - 1", 2),
        ("((tokens - 1)//2) + 1", 2),
        ("(batch//tokens)", 2),
        ("TruncToInt(0.5*ToFloat(tokens))", 1),
        ("CeilToInt(0.5*tokens)", 2),
        ("Max(4, tokens)", 4),
        ("Min(4, batch)", 4),
        ("Mod(batch, tokens)", 1),
        ("batch**2", 49),
        ("E + N", 2 * OTHER_SIZE),  # names that SymPy knows as others
        ("Max*2", 2 * OTHER_SIZE),
        ("other", OTHER_SIZE),
    ],
)
def test_a_size_is_what_its_expression_gives(size: int | str, expected: int) -> None:
    assert TensorSpec("x", (size,), torch.float32).sizes({"batch": 7, "tokens": 3}) == (expected,)


def test_what_is_not_known_may_have_another_size() -> None:
    assert TensorSpec("x", ("batch", "4*rows", 3), torch.float32).sizes({"batch": 2}, other=1) == (2, 4, 3)


def test_free_dimensions_are_told_in_order_and_once() -> None:
    spec = TensorSpec("x", ("tokens", 3, "2*batch", "batch", "tokens"), torch.float32)
    assert spec.dimensions == ("tokens", "batch")
