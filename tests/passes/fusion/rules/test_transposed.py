"""Transposed convolutions: the channels of all branches in each group, or so many times the groups."""

from __future__ import annotations

import pytest
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from tests.passes.fusion.rules.laid import Common, Forward, Given, Own, Parameter, check, refusal
from tests.passes.models import normal


def _in_groups(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.conv_transpose2d(x, weight, bias, 2, 1, 1, 2, (1, 2))


CASES: dict[str, tuple[Forward, tuple[Given, ...]]] = {
    "line": (F.conv_transpose1d, (Own((2, 4, 5)), Parameter((4, 6, 3)), Parameter((6,)))),
    "line without bias": (F.conv_transpose1d, (Own((2, 4, 5)), Parameter((4, 6, 3)))),
    "state": (F.conv_transpose1d, (Common(normal(2, 4, 5)), Parameter((4, 6, 3)), Parameter((6,)))),
    "groups": (_in_groups, (Own((2, 4, 3, 3)), Parameter((4, 3, 2, 2)), Parameter((6,)))),
    "groups of the state": (_in_groups, (Common(normal(2, 4, 3, 3)), Parameter((4, 3, 2, 2)), Parameter((6,)))),
    "groups of the state without bias": (_in_groups, (Common(normal(2, 4, 3, 3)), Parameter((4, 3, 2, 2)))),
    "volume": (F.conv_transpose3d, (Own((1, 2, 2, 2, 2)), Parameter((2, 3, 2, 2, 2)))),
}


@pytest.mark.parametrize("name", CASES)
def test_each_branch_has_its_channels_wherever_the_branches_lie(name: str) -> None:
    forward, given = CASES[name]
    for names in check(forward, *given):
        assert sum(each.startswith("conv_transpose") for each in names) == 1


def test_what_has_no_batch_is_refused() -> None:
    reason = refusal(F.conv_transpose1d, Own((4, 5)), Parameter((4, 6, 3)))
    assert reason == "conv_transpose1d reads [4, 5], which has no batch"
