"""Rules for products: each branch has its product wherever the branches lie, with one product for all of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.graph.operators import LINEAR, aten
from tests.passes.fusion.rules.laid import Common, Forward, Given, Own, Parameter, check, refusal
from tests.passes.models import normal
from tests.sampled import sampled

IMAGE, LINE = Own((2, 4, 5, 5)), Own((2, 4, 6))
QUERY = Own((2, 2, 3, 4))

CASES: dict[str, tuple[Forward, tuple[Given, ...]]] = {
    "linear of the state": (F.linear, (Common(normal(2, 3, 4)), Parameter((6, 4)), Parameter((6,)))),
    "linear of the state without bias": (F.linear, (Common(normal(2, 3, 4)), Parameter((6, 4)))),
    "linear": (F.linear, (Own((2, 3, 4)), Parameter((6, 4)), Parameter((6,)))),
    "linear without bias": (F.linear, (Own((2, 3, 4)), Parameter((6, 4)))),
    "linear of a vector": (F.linear, (Own((4,)), Parameter((6, 4)), Parameter((6,)))),
    "linear of rows": (F.linear, (Own((2, 4)), Parameter((6, 4)), Parameter((6,)))),
    "linear of computed weights": (F.linear, (Own((2, 3, 4)), Own((6, 4)), Own((6,)))),
    "linear of shared weights": (F.linear, (Own((2, 3, 4)), Common(normal(6, 4)))),
    "convolution of the state": (F.conv1d, (Common(normal(2, 4, 6)), Parameter((6, 4, 3)), Parameter((6,)))),
    "convolution of the state in groups": (
        lambda x, w: F.conv1d(x, w, None, 2, 1, 1, 2),
        (Common(normal(2, 4, 6)), Parameter((6, 2, 3))),
    ),
    "convolution": (F.conv1d, (LINE, Parameter((6, 4, 3)), Parameter((6,)))),
    "convolution in groups": (
        lambda x, w, b: F.conv2d(x, w, b, groups=2),
        (IMAGE, Parameter((6, 2, 3, 3)), Parameter((6,))),
    ),
    "convolution of named padding": (lambda x, w: F.conv2d(x, w, padding="same"), (IMAGE, Parameter((6, 4, 3, 3)))),
    "matmul": (torch.matmul, (Own((2, 3, 4)), Own((2, 4, 5)))),
    "matmul of heads": (torch.matmul, (QUERY, Own((2, 2, 4, 3)))),
    "matmul with a shared left": (lambda x, m: m @ x, (Own((2, 3, 4)), Common(normal(5, 3)))),
    "matmul with a shared right": (torch.matmul, (Own((2, 3, 4)), Common(normal(4, 5)))),
    "matmul with a parameter": (torch.matmul, (Own((2, 3, 4)), Parameter((4, 5)))),
    "matmul of two ranks": (torch.matmul, (QUERY, Own((4, 5)))),
    "bmm": (torch.bmm, (Own((2, 3, 4)), Own((2, 4, 5)))),
    "baddbmm": (
        lambda t, x, y: torch.baddbmm(t, x, y, beta=0.5, alpha=2),
        (Own((1, 5)), Own((2, 3, 4)), Own((2, 4, 5))),
    ),
    "baddbmm to a shared value": (torch.baddbmm, (Common(normal(2, 3, 5)), Own((2, 3, 4)), Own((2, 4, 5)))),
    "distances": (torch.cdist, (Own((2, 3, 4)), Own((2, 5, 4)))),
    "distances to shared rows": (torch.cdist, (Own((2, 3, 4)), Common(normal(2, 5, 4)))),
    "attention": (F.scaled_dot_product_attention, (QUERY, QUERY, QUERY)),
    "attention without heads": (F.scaled_dot_product_attention, (Own((2, 3, 4)), Own((2, 5, 4)), Own((2, 5, 4)))),
    "attention to shared values": (
        F.scaled_dot_product_attention,
        (QUERY, Common(normal(2, 2, 5, 4)), Common(normal(2, 2, 5, 4))),
    ),
    "attention with a mask": (F.scaled_dot_product_attention, (QUERY, QUERY, QUERY, Common(normal(3, 3)))),
    "attention with a mask of heads": (F.scaled_dot_product_attention, (QUERY, QUERY, QUERY, Common(normal(2, 3, 3)))),
    "attention with a mask of samples": (
        F.scaled_dot_product_attention,
        (QUERY, QUERY, QUERY, Common(normal(2, 1, 3, 3))),
    ),
    "attention with masks of their own": (F.scaled_dot_product_attention, (QUERY, QUERY, QUERY, Own((3, 3)))),
    "attention with stored masks": (F.scaled_dot_product_attention, (QUERY, QUERY, QUERY, Parameter((2, 3, 3)))),
    "attention with masks of each sample": (F.scaled_dot_product_attention, (QUERY, QUERY, QUERY, Own((2, 1, 3, 3)))),
}


@pytest.mark.parametrize("name", sampled([*CASES], 4))
def test_each_branch_has_its_product_wherever_the_branches_lie(name: str) -> None:
    forward, given = CASES[name]
    for names in check(forward, *given):
        products = [each for each in names if each.split(".")[0] in PRODUCTS]
        assert len(products) == 1


PRODUCTS = {"linear", "bmm", "baddbmm", "matmul", "conv1d", "conv2d", "cdist", "scaled_dot_product_attention"}


@pytest.mark.parametrize("outer", [1, 2, 3, 6])
def test_a_linear_of_the_state_has_its_branches_where_they_were_asked_for(outer: int) -> None:
    (names,) = check(F.linear, Common(normal(2, 3, 4)), Parameter((6, 4)), Parameter((6,)), outer=outer)
    assert names[0] == LINEAR._schema.name.removeprefix("aten::") + ".default"


def test_heads_and_samples_need_no_move_for_a_product_or_an_attention() -> None:
    assert ("matmul.default",) in {names[:1] for names in check(torch.matmul, QUERY, Own((2, 2, 4, 3)))}
    firsts = {names[0] for names in check(F.scaled_dot_product_attention, QUERY, QUERY, QUERY)}
    assert str(aten.scaled_dot_product_attention.default).removeprefix("aten.") in firsts


def _vector(x: Tensor, y: Tensor) -> Tensor:
    return x @ y


def test_what_has_no_batch_and_products_of_vectors_are_refused() -> None:
    assert refusal(F.conv1d, Own((4, 6)), Parameter((6, 4, 3))) == "conv1d reads [4, 6], which has no batch"
    assert refusal(_vector, Own((3, 4)), Own((4,))) == "matmul (aten.matmul.default) multiplies a vector"
    computed = refusal(F.linear, Own((4,)), Own((6, 4)))
    assert computed == "linear (aten.linear.default) multiplies a vector"
    attention = refusal(F.scaled_dot_product_attention, Own((3, 4)), Own((3, 4)), Own((3, 4)))
    assert attention == "scaled_dot_product_attention reads [3, 4], which has no batch"
