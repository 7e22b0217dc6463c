"""Products with vectors, tensordot and the like are products of matrices, whatever the ranks are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.clean.normalize_synonyms import NormalizeSynonyms
from passes.graph.operators import LINEAR, aten
from tests.passes.clean.spelled import operators, respelled
from tests.passes.drawn import drawn
from tests.passes.models import normal, run, text

X, V = normal(3, 4, 6), normal(6, seed=2)
SIZES = (2, 3, 4)

PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "outer": lambda x, v: torch.outer(v[:4], v),
    "ger": lambda x, v: torch.ger(v, v[:4]),
    "dot": lambda x, v: v.dot(v.cos()),
    "mv": lambda x, v: x[0].mv(v),
    "tensordot": lambda x, v: torch.tensordot(x, v.view(6, 1).expand(6, 5), dims=([2], [0])),
    "tensordot of two dimensions": lambda x, v: torch.tensordot(x, x.cos(), dims=([1, 2], [1, 2])),
    "tensordot of dimensions in another order": lambda x, v: torch.tensordot(x, x.permute(2, 0, 1), ([-1, 1], [0, -1])),
    "tensordot of none": lambda x, v: torch.tensordot(x[0], v, dims=0),
    "bilinear": lambda x, v: F.bilinear(x, x.cos(), v.view(1, 6, 1).expand(5, 6, 6), v[:5]),
    "bilinear without bias": lambda x, v: F.bilinear(x[0], x[1], v.view(1, 6, 1).expand(5, 6, 6)),
    "a chain": lambda x, v: torch.linalg.multi_dot((v[None, :3], v.view(3, 2), v.view(2, 3), v.view(3, 2), v[:2])),
    "a chain between vectors": lambda x, v: torch.linalg.multi_dot((v[:4], x[0], v)),
    "implicit result": lambda x, v: torch.einsum("Bij,j", x, v),
    "ellipsis of other ranks": lambda x, v: torch.einsum("...i,...i->...", x, v),
    "ellipsis of one operand": lambda x, v: torch.einsum("...j,j->j...", x, v),
    "spaces": lambda x, v: torch.einsum(" b i j , j -> i b ", x, v),
    "three operands": lambda x, v: torch.einsum("bij,j,kj->bik", x, v, x[0]),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_of_other_spellings_have_the_same_numbers(name: str) -> None:
    graph, record = respelled(PRODUCTS[name], X, V)
    assert record.matches
    assert {aten.matmul.default, aten.mul.Tensor, LINEAR} & set(operators(graph))


@pytest.mark.parametrize("right", range(1, 5))
@pytest.mark.parametrize("left", range(1, 5))
def test_products_of_all_ranks_have_the_same_numbers_and_those_of_matrices_stay(left: int, right: int) -> None:
    x = normal(*SIZES[-1:], *SIZES[:2], 5, seed=left)[(0,) * (4 - left)]
    y = normal(*SIZES[-1:], *SIZES[:1], 5, 3, seed=right)[(0,) * (4 - right)] if right > 1 else normal(5)
    _, record = respelled(torch.matmul, x, y)
    assert bool(record.matches) == (1 in (left, right))
    rows = normal(*SIZES, 5)[(0,) * (4 - left)], normal(*SIZES, 5, seed=9)[(0,) * (4 - right)]
    graph, _ = respelled(torch.inner, *rows)
    assert aten.inner.default not in operators(graph)


LEFT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "matrices": lambda x, v: x @ x.transpose(1, 2),
    "whole numbers": lambda x, v: torch.einsum("bij,bkj->bik", x.long(), x.long()),
    "numbers without dimensions": lambda x, v: torch.inner(x.sum(), v),
    "products of whole numbers": lambda x, v: x.long() @ v.long(),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_has_no_other_spelling_stays(name: str) -> None:
    graph = drawn(LEFT[name], X, V)
    result, record = run(graph, NormalizeSynonyms())
    assert record.matches == ()
    assert text(result) == text(graph)
