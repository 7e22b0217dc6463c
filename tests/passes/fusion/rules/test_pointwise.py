"""Pointwise operators and norms: values meet where they lie, and what has room for one branch only is broadcast."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.fusion.layout import Normed
from passes.graph.operators import aten
from tests.passes.fusion.rules.laid import Common, Forward, Given, Own, Parameter, Rows, check, refusal
from tests.passes.models import normal
from tests.sampled import sampled

X, IMAGE = Own((2, 3, 4)), Own((2, 4, 3, 3))
STATE = Common(normal(2, 3, 4))
GAIN, SHIFT = Parameter((4,)), Parameter((4,))
TIED = nn.Parameter(normal(4), requires_grad=False)

CASES: dict[str, tuple[Forward, tuple[Given, ...]]] = {
    "one value": (torch.tanh, (X,)),
    "an operator without a rule of its own": (torch.sinh, (X,)),
    "a number": (lambda x: 2 * x + 1, (X,)),
    "two values": (lambda x, y: x * y, (X, X)),
    "a smaller value": (lambda x, y: x * y, (X, Own((3, 1)))),
    "a value of fewer dimensions": (lambda y, x: x - y, (Own((4,)), X)),
    "a value for each sample": (lambda x, y: x / y.exp(), (X, Own((2, 1, 1)))),
    "a shared value": (lambda x, g: x + g, (X, STATE)),
    "a shared value of fewer dimensions": (lambda x, g: x + g, (X, Common(normal(3, 4)))),
    "a shared value of one": (lambda x, g: x + g, (X, Common(normal(1, 3, 1)))),
    "a shared value that is larger": (lambda x, g: x + g, (Own((1, 4)), STATE)),
    "a parameter": (lambda x, w: x * w, (X, GAIN)),
    "a parameter of the tokens": (lambda x, w: x + w, (X, Parameter((3, 1)))),
    "a parameter of one number": (lambda x, w: x * w, (X, Parameter((1,)))),
    "a parameter without dimensions": (lambda x, w: x * w, (X, Parameter(()))),
    "a choice": (lambda x, g: torch.where(g > 0, x, -x), (X, STATE)),
    "a choice of each branch": (lambda x, y: torch.where(y > 0, x, 0.0), (X, X)),
    "interpolated": (torch.lerp, (X, X, STATE)),
    "gain of the state": (lambda g, w: g * w, (STATE, GAIN)),
    "gain and shift of the state": (lambda g, w, b: b + w * g, (STATE, GAIN, SHIFT)),
    "shift, then gain": (lambda g, w, b: (g + b) * w, (STATE, GAIN, SHIFT)),
    "difference to the state": (lambda g, w: w - g, (STATE, GAIN)),
    "layer norm": (lambda x, w, b: F.layer_norm(x, [4], w, b), (X, GAIN, SHIFT)),
    "layer norm of the state": (lambda g, w, b: F.layer_norm(g, [4], w, b, 1e-3), (STATE, GAIN, SHIFT)),
    "layer norm of the state without a shift": (lambda g, w: F.layer_norm(g, [4], w), (STATE, GAIN)),
    "layer norm without a gain": (lambda x: F.layer_norm(x, [4]), (X,)),
    "layer norm with a shared gain": (lambda x: F.layer_norm(x, [4], TIED), (X,)),
    "layer norm of two dimensions": (lambda x, w: F.layer_norm(x, [3, 4], w), (X, Parameter((3, 4)))),
    "rms norm": (lambda x, w: F.rms_norm(x, [4], w, 1e-3), (X, GAIN)),
    "rms norm of the state": (lambda g, w: F.rms_norm(g, [4], w), (STATE, GAIN)),
    "batch norm": (
        lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b),
        (IMAGE, GAIN, SHIFT, Parameter((4,)), Parameter((4,), torch.exp)),
    ),
    "group norm": (lambda x, w, b: F.group_norm(x, 2, w, b), (IMAGE, GAIN, SHIFT)),
    "group norm of the state": (lambda g, w: F.group_norm(g, 2, w), (Common(normal(2, 4, 3, 3)), GAIN)),
    "instance norm": (lambda x, w, b: F.instance_norm(x, None, None, w, b), (IMAGE, GAIN, SHIFT)),
    "slope": (F.prelu, (IMAGE, Parameter((1,)))),
    "slopes of channels": (F.prelu, (IMAGE, GAIN)),
}


@pytest.mark.parametrize("name", sampled([*CASES], 4))
def test_each_branch_has_its_value_wherever_the_branches_lie(name: str) -> None:
    forward, given = CASES[name]
    check(forward, *given)


@pytest.mark.parametrize(
    "forward",
    [lambda g, w: g * w, lambda g, w: w + g, lambda g, w: F.layer_norm(g, [4], w), lambda g, w: F.rms_norm(g, [4], w)],
)
def test_gains_and_shifts_of_the_state_wait_to_be_folded(forward: Forward) -> None:
    value, _, _ = Rows(forward, STATE, GAIN).lifted([])
    assert isinstance(value, Normed)


def test_statistics_of_the_state_are_taken_once_and_those_of_hidden_values_for_all_at_once() -> None:
    ((norm, *_),) = check(lambda g, w, b: F.layer_norm(g, [4], w, b), STATE, GAIN, SHIFT)
    assert norm == "layer_norm.default"
    assert all(names.count("layer_norm.default") == 1 for names in check(lambda x: F.layer_norm(x, [4]), X))


def test_values_that_lie_alike_meet_without_a_move() -> None:
    rows = Rows(lambda x, y: x * y, X, X)
    for layout in X.layouts():
        assert rows.lifted([layout, layout])[2][0] == "mul.Tensor"


def test_a_norm_whose_gain_is_computed_and_one_of_all_dimensions_are_refused() -> None:
    computed = refusal(lambda x, w: F.layer_norm(x, [4], w), X, Own((4,)))
    assert computed.startswith("layer_norm scales or shifts by ")
    assert computed.endswith(", which is no parameter")
    assert refusal(lambda x: F.layer_norm(x, [3, 4]), Own((3, 4))).endswith(
        "leaves no dimension in which the branches could lie"
    )


def _slopes(x: Tensor, weight: Tensor) -> Tensor:
    return aten.prelu.default(x, weight)


def test_slopes_that_are_computed_are_refused() -> None:
    assert refusal(_slopes, IMAGE, Own((4,))).endswith(", which is no parameter")
