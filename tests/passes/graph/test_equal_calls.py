"""Calls that compute the same have one key, and those whose arguments only look alike have several."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from passes.graph.equal_calls import key_of

aten = torch.ops.aten


NUMBERS = (1, 1.0, True, 0, 0.0, -0.0, False, None, "1", 1 + 0j, torch.float64, (1,), (1.0,), ((1,),), slice(1, None))


@pytest.mark.parametrize(("left", "right"), list(combinations(NUMBERS, 2)))
def test_arguments_that_only_look_alike_are_told_apart(left: object, right: object) -> None:
    assert key_of(aten.mul.Tensor, ("x", left), {}) != key_of(aten.mul.Tensor, ("x", right), {})
    assert key_of(aten.mul.Tensor, ("x",), {"other": left}) != key_of(aten.mul.Tensor, ("x",), {"other": right})


@pytest.mark.parametrize("number", NUMBERS)
def test_equal_arguments_have_equal_keys_that_can_be_looked_up(number: object) -> None:
    keys = {
        key_of(aten.mul.Tensor, [number], {"a": 1, "b": [number]}),
        key_of(aten.mul.Tensor, (number,), {"b": (number,), "a": 1}),
    }
    assert len(keys) == 1
