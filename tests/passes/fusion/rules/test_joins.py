"""Values repeated or put side by side: the branches lie in another dimension than that in which it is done."""

from __future__ import annotations

import pytest
import torch

from tests.passes.fusion.rules.laid import Common, Forward, Given, Own, Parameter, check, refusal
from tests.passes.models import normal
from tests.sampled import sampled

X, Y = Own((2, 3, 4)), Own((2, 5, 4))

CASES: dict[str, tuple[Forward, tuple[Given, ...]]] = {
    "cat": (lambda x, y: torch.cat([x, y], 1), (X, Y)),
    "cat of the last dimension": (lambda x: torch.cat([-x, x], -1), (X,)),
    "cat of the samples": (lambda x: torch.cat([x, x.sin()]), (X,)),
    "cat with a shared value": (lambda x, g: torch.cat([g, x, g], 1), (X, Common(normal(2, 1, 4)))),
    "cat with a parameter": (lambda x, w: torch.cat([w, x], 1), (X, Parameter((2, 1, 4)))),
    "stack": (lambda x: torch.stack([x, -x], -1), (X,)),
    "stack in front": (lambda x: torch.stack([x, -x]), (X,)),
    "stack between": (lambda x, y: torch.stack([x, y], 2), (X, X)),
    "stack with a shared value": (lambda x, g: torch.stack([x, g], 1), (X, Common(normal(2, 3, 4)))),
    "stack with a parameter": (lambda x, w: torch.stack([w, x], 1), (X, Parameter((2, 3, 4)))),
    "expand": (lambda x: x.expand(2, 5, 4), (Own((2, 1, 4)),)),
    "expand with new dimensions": (lambda x: x.expand(6, 2, 3, 4), (X,)),
    "repeat": (lambda x: x.repeat(1, 2, 1), (X,)),
    "repeat of two": (lambda x: x.repeat(3, 1, 2), (X,)),
    "repeat with a new dimension": (lambda x: x.repeat(2, 1, 1, 3), (X,)),
    "each in a row": (lambda x: x.repeat_interleave(2, 1), (X,)),
    "each in a row of the last": (lambda x: x.repeat_interleave(3, -1), (X,)),
}


@pytest.mark.parametrize("name", sampled([*CASES], 3))
def test_each_branch_has_its_value_wherever_the_branches_lie(name: str) -> None:
    forward, given = CASES[name]
    check(forward, *given)


def test_a_join_of_parameters_and_shared_values_is_refused() -> None:
    given = (Parameter((2, 1, 4)), Common(normal(2, 3, 4)))
    assert refusal(lambda w, g: torch.cat([w, g], 1), *given) == "cat puts parameters and shared values together"
    stacked = refusal(lambda w, g: torch.stack([w, g]), Parameter((2, 3)), Common(normal(2, 3)))
    assert stacked == "stack puts parameters and shared values together"


def test_a_value_of_one_dimension_that_is_continued_has_no_place_for_the_branches() -> None:
    reason = "leaves no dimension in which the branches could lie"
    assert refusal(lambda x: torch.cat([x, x]), Own((4,))) == f"cat (aten.cat.default) {reason}"
    assert refusal(lambda x: x.expand(2, 3), Own((1, 1))) == f"expand (aten.expand.default) {reason}"
