"""Sums of products, statistics and norms in other spellings have the same numbers in the operators that passes know."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.clean.normalize_synonyms import NormalizeSynonyms
from passes.graph.operators import aten
from tests.passes.clean.spelled import check_spelling
from tests.passes.drawn import drawn
from tests.passes.models import normal, run, text
from tests.sampled import sampled

X = normal(3, 4, 6)

Forward = Callable[[Tensor], Tensor]

SPELLINGS: dict[str, tuple[Forward, list[object] | None]] = {
    "a number less integers": (
        lambda x: x * (1.0 - (x > 0).long()),
        [aten.gt.Scalar, aten.to.dtype, aten.to.dtype, aten.rsub.Scalar, aten.mul.Tensor],
    ),
    "addcmul": (lambda x: torch.addcmul(x, x, x.cos()), [aten.cos.default, aten.mul.Tensor, aten.add.Tensor]),
    "addcmul with a factor": (lambda x: torch.addcmul(x, x, x, value=0.5), None),
    "addcdiv": (lambda x: torch.addcdiv(x, x, x.exp(), value=2.0), None),
    "std": (lambda x: x.std(-1), [aten.var.correction, aten.sqrt.default]),
    "std of all": (lambda x: x.std(), [aten.var.correction, aten.sqrt.default]),
    "std without correction": (
        lambda x: x.std(1, correction=0, keepdim=True),
        [aten.var.correction, aten.sqrt.default],
    ),
    "std with half a correction": (lambda x: x.std((0, 2), correction=0.5), [aten.var.correction, aten.sqrt.default]),
    "var": (lambda x: x.var(-1, unbiased=False), [aten.var.correction]),
    "var of all": (lambda x: x.var(unbiased=False), [aten.var.correction]),
    "var_mean": (lambda x: torch.add(*torch.var_mean(x, -1)), [aten.var.correction, aten.mean.dim, aten.add.Tensor]),
    "std_mean": (lambda x: torch.std_mean(x, (1, 2))[0], [aten.var.correction, aten.sqrt.default]),
    "mean of var_mean of all": (lambda x: torch.var_mean(x)[1], [aten.mean.dim]),
    "largest": (lambda x: x.max(), [aten.amax.default]),
    "smallest": (lambda x: x.min(), [aten.amin.default]),
    "largest along a dimension": (lambda x: x.max(-1)[0], [aten.amax.default]),
    "where the largest is": (lambda x: x.max(1, keepdim=True)[1], [aten.argmax.default]),
    "smallest and where": (
        lambda x: torch.add(*x.min(1, keepdim=True)),
        [aten.amin.default, aten.argmin.default, aten.add.Tensor],
    ),
    "norm": (lambda x: x.norm(dim=-1), [aten.mul.Tensor, aten.sum.dim_IntList, aten.sqrt.default]),
    "norm of all": (lambda x: x.norm(), [aten.mul.Tensor, aten.sum.dim_IntList, aten.sqrt.default]),
    "norm of matrices as vectors": (lambda x: torch.linalg.norm(x, dim=(0, 2)), None),
    "norm of order 1": (lambda x: x.norm(p=1, dim=-1, keepdim=True), [aten.abs.default, aten.sum.dim_IntList]),
    "norm of order 3": (lambda x: torch.linalg.vector_norm(x, 3, -1), None),
    "norm of a negative order": (lambda x: torch.linalg.vector_norm(x, -2, -1), None),
    "norm of order 0": (lambda x: torch.linalg.vector_norm(x.relu(), 0, -1), None),
    "largest magnitude": (lambda x: torch.linalg.norm(x, torch.inf, -1), [aten.abs.default, aten.amax.default]),
    "smallest magnitude": (lambda x: torch.linalg.norm(x, -torch.inf, 1), [aten.abs.default, aten.amin.default]),
    "frobenius": (lambda x: x.norm("fro", (1, 2)), None),
    "normalize": (lambda x: F.normalize(x, dim=-1), None),
    "normalize of zeros": (lambda x: F.normalize(x.relu().floor(), dim=1), None),
    "cosine similarity": (lambda x: F.cosine_similarity(x, x[:, :1], -1), None),
    "cosine similarity of zeros": (lambda x: F.cosine_similarity(x * 0, x, 1, 1e-3), None),
}


@pytest.mark.parametrize("name", sampled([*SPELLINGS], 2))
def test_each_spelling_has_the_same_numbers(name: str) -> None:
    check_spelling(*SPELLINGS[name], X)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_squares_of_half_precision_are_summed_up_in_full(dtype: torch.dtype) -> None:
    x = (X * 300).to(dtype)  # the sum of squares is beyond the range of float16
    graph, _ = run(drawn(lambda x: x.norm(dim=-1), x), NormalizeSynonyms())
    made, expected = graph(x), x.norm(dim=-1)
    assert made.dtype == dtype
    assert torch.allclose(made.float(), expected.float(), rtol=4 * torch.finfo(dtype).eps)


LEFT: dict[str, Forward] = {
    "a norm of matrices": lambda x: torch.linalg.norm(x, 2, (1, 2)),
    "the nuclear norm": lambda x: torch.linalg.norm(x[0], "nuc"),
    "a norm of complex numbers": lambda x: torch.linalg.vector_norm(torch.complex(x, x), dim=-1),
    "a norm in another dtype": lambda x: torch.linalg.vector_norm(x.float(), dim=-1, dtype=torch.float64),
    "a cosine of vectors of two lengths": lambda x: F.cosine_similarity(x, x[..., :1], -1),
    "a cosine of the shorter one first": lambda x: F.cosine_similarity(x[:, :1], x, 1),
    "a number less a value": lambda x: 1.0 - x,
    "integers less integers": lambda x: 3 - x.long(),
    "a place that is read with the value": lambda x: sum(torch.frexp(x)),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_has_no_other_spelling_stays(name: str) -> None:
    graph = drawn(LEFT[name], X)
    result, record = run(graph, NormalizeSynonyms())
    assert record.matches == ()
    assert text(result) == text(graph)
