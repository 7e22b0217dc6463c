"""Views, permutations and selections: the branches go where the dimension goes in which they lie."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from tests.passes.fusion.rules.laid import Forward, Own, check, refusal
from tests.sampled import sampled

X, IMAGE = Own((2, 6, 4)), Own((2, 4, 4, 6))

CASES: dict[str, tuple[Forward, Own]] = {
    "view": (lambda x: x.view(12, 4), X),
    "heads": (lambda x: x.view(2, 6, 2, 2), X),
    "view across": (lambda x: x.reshape(2, 4, 6), X),
    "view of all": (lambda x: x.reshape(-1), X),
    "transpose": (lambda x: x.transpose(1, 2), X),
    "permute": (lambda x: x.permute(2, 0, 1), X),
    "permuted and viewed": (lambda x: x.permute(1, 0, 2).reshape(6, 8), X),
    "unflatten": (lambda x: x.unflatten(1, (2, 3)), X),
    "unflatten to a rest": (lambda x: x.unflatten(-1, (2, -1)), X),
    "flatten": (lambda x: x.flatten(1), X),
    "unsqueeze": (lambda x: x.unsqueeze(1).unsqueeze(-1), X),
    "squeeze": (lambda x: x.squeeze(1), Own((2, 1, 4))),
    "select": (lambda x: x.select(1, 3), X),
    "the last of all": (lambda x: x.select(-1, -1), X),
    "slice": (lambda x: x[:, 1:5:2], X),
    "narrow": (lambda x: x.narrow(-1, 1, 2), X),
    "chunk": (lambda x: x.chunk(2, -1)[1], X),
    "split": (lambda x: x.split(2, 1)[2], X),
    "unequal pieces": (lambda x: x.split([1, 3], -1)[1], X),
    "unbind": (lambda x: x.unbind(1)[4], X),
    "cumsum": (lambda x: x.cumsum(1), X),
    "softmax": (lambda x: x.softmax(-1), X),
    "glu": (F.glu, X),
    "roll": (lambda x: x.roll((1, 2), (0, 2)), X),
    "flip": (lambda x: x.flip(1), X),
    "padded": (lambda x: F.pad(x, (1, 0, 2, 1)), X),
    "pooled line": (lambda x: F.avg_pool1d(x, 2), X),
    "pooled image": (lambda x: F.max_pool2d(x, 2), IMAGE),
    "pooled to one": (lambda x: F.adaptive_avg_pool2d(x, 1), IMAGE),
    "mean": (lambda x: x.mean(1), X),
    "sum that keeps": (lambda x: x.sum((0, 2), keepdim=True), X),
    "largest": (lambda x: x.amax(-1), X),
    "spread": (lambda x: torch.var(x, 1, correction=0), X),
}


@pytest.mark.parametrize("name", sampled([*CASES], 3))
def test_each_branch_has_its_value_wherever_the_branches_lie(name: str) -> None:
    forward, given = CASES[name]
    check(forward, given)


def test_an_operator_on_every_dimension_is_refused() -> None:
    reason = refusal(lambda x: x.sum((0, 1)), Own((2, 3)))
    assert reason == "sum_1 (aten.sum.dim_IntList) leaves no dimension in which the branches could lie"


def test_heads_of_all_branches_need_no_move() -> None:
    assert ("reshape.default",) in {names[:1] for names in check(lambda x: x.view(2, 6, 2, 2), X)}
