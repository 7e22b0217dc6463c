"""Operators of several spellings are written in one, and the numbers stay."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.clean.normalize_synonyms import NormalizeSynonyms
from passes.graph.operators import GETITEM, LINEAR, aten
from passes.runner import PassRecord
from tests.passes.models import Function, graph_of, normal, relative_error, run, text, wrong_metadata

BATCH, TOKENS, WIDTH = 3, 4, 6


def _normalized(function: Callable[..., Tensor], *inputs: Tensor, **parts: Tensor) -> tuple[fx.GraphModule, PassRecord]:
    """The graph after the pass, whose numbers, metadata and second run are checked."""
    module = Function(lambda s, *given: function(*given, **{name: getattr(s, name) for name in parts}), **parts).eval()
    fixed = {name: getattr(module, name).requires_grad_(False) for name in parts}
    graph = graph_of(module, *inputs)
    result, record = run(graph, NormalizeSynonyms(), *inputs)
    for batch in (BATCH, 1, 5):
        resized = [x.repeat(2, *([1] * (x.ndim - 1)))[:batch] if len(x) == BATCH else x for x in inputs]
        expected = function(*resized, **fixed)
        assert relative_error(result(*resized), expected) < 1e-12 or torch.equal(result(*resized), expected)
        assert wrong_metadata(result, *resized) == []
    again, second = run(result, NormalizeSynonyms())
    assert second.matches == ()
    assert text(again) == text(result)
    return result, record


def _targets(graph: fx.GraphModule) -> list[object]:
    left_out = (aten.sym_size.int, GETITEM)
    return [n.target for n in graph.graph.nodes if n.op == "call_function" and n.target not in left_out]


def _x() -> Tensor:
    return normal(BATCH, TOKENS, WIDTH)


SPELLINGS = {
    "swapaxes": (lambda x: x.swapaxes(1, 2), [aten.transpose.int]),
    "movedim of one": (lambda x: x.movedim(1, -1), [aten.transpose.int]),
    "movedim of several": (lambda x: x.movedim((1, 2), (2, 0)), [aten.permute.default]),
    "moveaxis": (lambda x: torch.moveaxis(x, 0, 2), [aten.permute.default]),
    "mT": (lambda x: x.mT, [aten.transpose.int]),
    "adjoint": (lambda x: x.adjoint(), [aten.transpose.int]),
    "T of a matrix": (lambda x: x[:, 0].T, [aten.slice.Tensor, aten.select.int, aten.transpose.int]),
    "t": (lambda x: x[:, 0].t(), [aten.slice.Tensor, aten.select.int, aten.transpose.int]),
    "view_as": (lambda x: x.flatten(1).view_as(x), [aten.flatten.using_ints, aten.reshape.default]),
    "reshape_as": (lambda x: x.mT.reshape_as(x), [aten.transpose.int, aten.reshape.default]),
    "expand_as": (lambda x: x[..., :1].expand_as(x), None),
    "broadcast_to": (lambda x: x[..., :1].broadcast_to(x.shape), None),
    "type_as": (lambda x: (x > 0).type_as(x), [aten.gt.Scalar, aten.to.dtype]),
    "ravel": (lambda x: x.ravel().view(-1, 2), None),
    "tile": (lambda x: x.tile(2, 1), [aten.repeat.default]),
    "hstack": (lambda x: torch.hstack((x, -x)), [aten.neg.default, aten.cat.default]),
    "vstack": (lambda x: torch.vstack((x, -x)), [aten.neg.default, aten.cat.default]),
    "dstack": (lambda x: torch.dstack((x, -x)), [aten.neg.default, aten.cat.default]),
    "column_stack": (lambda x: torch.column_stack((x, -x)), [aten.neg.default, aten.cat.default]),
    "concat": (lambda x: torch.concat((x, -x), -1), [aten.neg.default, aten.cat.default]),
    "pieces by their number": (lambda x: x.tensor_split(4, -1)[0], [aten.split_with_sizes.default]),
    "pieces by where they begin": (lambda x: x.tensor_split((1, 3), 1)[1], [aten.split_with_sizes.default]),
    "hsplit": (lambda x: x.hsplit(2)[1], [aten.split_with_sizes.default]),
    "dsplit": (lambda x: x.dsplit((2, 3))[2], [aten.split_with_sizes.default]),
    "unsafe chunks": (lambda x: x.unsafe_chunk(2, -1)[1], [aten.chunk.default]),
    "multiply, subtract, true_divide": (
        lambda x: x.multiply(x).subtract(1.0).true_divide(3.0),
        [aten.mul.Tensor, aten.sub.Tensor, aten.div.Tensor],
    ),
    "clip and absolute": (lambda x: x.absolute().clip(0.1, 1.0), [aten.abs.default, aten.clamp.default]),
    "a number less integers": (
        lambda x: x * (1.0 - (x > 0).long()),
        [aten.gt.Scalar, aten.to.dtype, aten.to.dtype, aten.rsub.Scalar, aten.mul.Tensor],
    ),
    "addcmul": (lambda x: torch.addcmul(x, x, x.cos()), [aten.cos.default, aten.mul.Tensor, aten.add.Tensor]),
    "addcmul with a factor": (lambda x: torch.addcmul(x, x, x, value=0.5), None),
    "addcdiv": (lambda x: torch.addcdiv(x, x, x.exp(), value=2.0), None),
    "std": (lambda x: x.std(-1), [aten.var.correction, aten.sqrt.default]),
    "std without correction": (
        lambda x: x.std(1, correction=0, keepdim=True),
        [aten.var.correction, aten.sqrt.default],
    ),
    "var": (lambda x: x.var(-1, unbiased=False), [aten.var.correction]),
    "var_mean": (lambda x: torch.add(*torch.var_mean(x, -1)), [aten.var.correction, aten.mean.dim, aten.add.Tensor]),
    "std_mean": (lambda x: torch.std_mean(x, (1, 2))[0], [aten.var.correction, aten.sqrt.default]),
    "largest along a dimension": (lambda x: x.max(-1)[0], [aten.amax.default]),
    "smallest and where": (
        lambda x: torch.add(*x.min(1, keepdim=True)),
        [aten.amin.default, aten.argmin.default, aten.add.Tensor],
    ),
    "largest of two": (lambda x: torch.max(x, -x), [aten.neg.default, aten.maximum.default]),
    "norm": (lambda x: x.norm(dim=-1), [aten.mul.Tensor, aten.sum.dim_IntList, aten.sqrt.default]),
    "norm of all": (lambda x: x / x.norm(), None),
    "norm of order 1": (lambda x: x.norm(p=1, dim=-1, keepdim=True), [aten.abs.default, aten.sum.dim_IntList]),
    "norm of order 3": (lambda x: torch.linalg.vector_norm(x, 3, -1), None),
    "norm of order 0": (lambda x: torch.linalg.vector_norm(x.relu(), 0, -1), None),
    "largest magnitude": (lambda x: torch.linalg.norm(x, torch.inf, -1), [aten.abs.default, aten.amax.default]),
    "normalize": (lambda x: F.normalize(x, dim=-1), None),
    "cosine similarity": (lambda x: F.cosine_similarity(x, x[:, :1], -1), None),
}


@pytest.mark.parametrize(("function", "targets"), SPELLINGS.values(), ids=SPELLINGS.keys())
def test_each_spelling_becomes_the_one_that_other_passes_know(
    function: Callable[[Tensor], Tensor], targets: list[object] | None
) -> None:
    graph, record = _normalized(function, _x())
    assert record.matches
    assert targets is None or _targets(graph) == targets


def test_a_shape_taken_from_another_tensor_no_longer_reads_it() -> None:
    graph, _ = _normalized(lambda x, y: y.expand_as(x.sinh()), _x(), normal(BATCH, 1, WIDTH))
    assert _targets(graph) == [aten.expand.default]


def test_a_squeeze_of_all_dimensions_takes_those_of_size_1_when_the_model_is_captured() -> None:
    graph = graph_of(Function(lambda s, x: x[:, :1].squeeze()).eval(), _x())
    result, _ = run(graph, NormalizeSynonyms(), _x())
    assert result(_x()[:1]).shape == (1, WIDTH)


LEFT: dict[str, Callable[[Tensor], Tensor]] = {
    "pieces of a free size": lambda x: torch.cat(x.tensor_split((1,), 0)[::-1]),
    "a product of matrices": lambda x: x @ x.transpose(1, 2),
    "an einsum of whole numbers": lambda x: torch.einsum("bij,bkj->bik", x.long(), x.long()),
    "a mean of two results that is read whole": lambda x: sum(torch.frexp(x)),
}


@pytest.mark.parametrize("function", LEFT.values(), ids=LEFT.keys())
def test_what_has_no_other_spelling_stays(function: Callable[[Tensor], Tensor]) -> None:
    graph = graph_of(Function(lambda s, x: function(x)).eval(), _x())
    result, record = run(graph, NormalizeSynonyms())
    assert record.matches == ()
    assert text(result) == text(graph)


EINSUMS = {  # of x (BATCH, 4, 6), its transposed y, and q, k of (BATCH, 2, 4, 6); what it becomes
    "bij,bjk->bik": [aten.matmul.default],
    "bij,bkj->bik": [aten.transpose.int, aten.matmul.default],
    "bhid,bhjd->bhij": [aten.transpose.int, aten.matmul.default],
    "bhij,bhjd->bhid": [aten.matmul.default],
    "bihd,bjhd->bhij": None,
    "...ij,...jk->...ik": [aten.matmul.default],
    "bij,bjk": None,
    "bij,bij->bij": [aten.mul.Tensor],
    "bij,bij->bi": [aten.mul.Tensor, aten.sum.dim_IntList],
    "bij,bij->b": None,
    "bij,bij->": None,
    "bij,bj->bij": None,
    "bij,bj->bi": [aten.unsqueeze.default, aten.matmul.default, aten.squeeze.dim],
    "bi,bj->bij": None,
    "bij->bji": [aten.transpose.int],
    "bij->bj": [aten.sum.dim_IntList],
    "bij->": [aten.sum.dim_IntList],
    "...ij->...ji": [aten.transpose.int],
    "bii->bi": [aten.diagonal.default],
    "bii->b": [aten.diagonal.default, aten.sum.dim_IntList],
    "bhid,bhjd,bhje->bhie": None,
    "bijd,bjd->bij": None,
    "bhid,bjd->bhij": None,
    "bid,bhjd->bhij": None,
    "bhid,ejd->bhij": None,
    "bij,cij->bc": None,
}


def _operand(letters: str, seed: int) -> Tensor:
    sizes = {"b": BATCH, "c": BATCH, "e": BATCH, "h": 2, "d": WIDTH, ".": BATCH}
    letters = letters.replace("...", ".")
    return normal(*(sizes.get(letter, TOKENS) for letter in letters), seed=seed)


@pytest.mark.parametrize(("equation", "targets"), EINSUMS.items(), ids=EINSUMS.keys())
def test_an_einsum_of_computed_values_becomes_what_it_means(equation: str, targets: list[object] | None) -> None:
    inputs = [_operand(part, seed) for seed, part in enumerate(equation.split("->", maxsplit=1)[0].split(","), 1)]
    graph, record = _normalized(lambda *x: torch.einsum(equation, *x), *inputs)
    assert record.matches
    assert aten.einsum.default not in _targets(graph)
    assert targets is None or _targets(graph) == targets


STORED = {  # equation, shape of the input, shape of the weight
    "bid,od->bio": ((BATCH, TOKENS, WIDTH), (5, WIDTH)),
    "od,bid->bio": ((5, WIDTH), (BATCH, TOKENS, WIDTH)),
    "bid,od->boi": ((BATCH, TOKENS, WIDTH), (5, WIDTH)),
    "bid,dhe->bhie": ((BATCH, TOKENS, WIDTH), (WIDTH, 2, 3)),
    "bhie,hed->bid": ((BATCH, 2, TOKENS, 3), (2, 3, WIDTH)),
    "bhij,hg->bgij": ((BATCH, 2, TOKENS, TOKENS), (2, 2)),
    "bid,d->bi": ((BATCH, TOKENS, WIDTH), (WIDTH,)),
    "...d,od->...o": ((BATCH, TOKENS, WIDTH), (5, WIDTH)),
    "...d,de": ((BATCH, TOKENS, WIDTH), (WIDTH, 5)),
    "bdi,od->boi": ((BATCH, WIDTH, TOKENS), (5, WIDTH)),
    "bid,kd->bk": ((BATCH, TOKENS, WIDTH), (5, WIDTH)),
}


@pytest.mark.parametrize("equation", STORED)
def test_an_einsum_with_a_stored_weight_becomes_a_linear(equation: str) -> None:
    first, second = (normal(*shape, seed=seed) for seed, shape in enumerate(STORED[equation], 1))
    if first.ndim < second.ndim or equation.startswith("od"):
        graph, _ = _normalized(lambda x, w: torch.einsum(equation, w, x), second, w=first)
    else:
        graph, _ = _normalized(lambda x, w: torch.einsum(equation, x, w), first, w=second)
    assert LINEAR in _targets(graph)
    assert aten.einsum.default not in _targets(graph)


BATCHED = {
    "bhid,hde->bhie": ((BATCH, 2, TOKENS, WIDTH), (2, WIDTH, 3)),
    "bhid,ijd->bhij": ((BATCH, 2, TOKENS, WIDTH), (TOKENS, TOKENS, WIDTH)),
    "bid,d->bid": ((BATCH, TOKENS, WIDTH), (WIDTH,)),
    "bhid,hd->bhi": ((BATCH, 2, TOKENS, WIDTH), (2, WIDTH)),
}


@pytest.mark.parametrize("equation", BATCHED)
def test_an_einsum_whose_weight_has_letters_of_the_result_becomes_a_batched_product(equation: str) -> None:
    x, w = (normal(*shape, seed=seed) for seed, shape in enumerate(BATCHED[equation], 1))
    graph, _ = _normalized(lambda x, w: torch.einsum(equation, x, w), x, w=w)
    assert LINEAR not in _targets(graph)
    assert aten.einsum.default not in _targets(graph)


def test_sizes_of_1_are_repeated_as_an_einsum_does() -> None:
    inputs = normal(BATCH, TOKENS, 1), normal(BATCH, TOKENS, WIDTH, seed=2)
    _normalized(lambda x, y: torch.einsum("bid,bjd->bij", x, y), *inputs)
    _normalized(lambda x, y: torch.einsum("bid,bid->bi", x, y), *inputs)
    _normalized(lambda x, y: torch.einsum("bid,bjd->bij", x, y), normal(BATCH, 1, WIDTH), inputs[1])


PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "matrix and vector": lambda x, v: x @ v,
    "vector and matrix": lambda x, v: v @ x.mT,
    "inner": lambda x, v: torch.inner(x, v).relu(),
    "inner of several rows": lambda x, v: torch.inner(x, v.view(2, 3).repeat(1, 2)),
    "outer": lambda x, v: x + torch.outer(v[:4], v),
    "dot": lambda x, v: x + v.dot(v.cos()),
    "tensordot": lambda x, v: torch.tensordot(x, v.view(6, 1).expand(6, 5), dims=([2], [0])),
    "tensordot of two dimensions": lambda x, v: torch.tensordot(x, x.cos(), dims=([1, 2], [1, 2])),
    "bilinear": lambda x, v: F.bilinear(x, x.cos(), v.view(1, 6, 1).expand(5, 6, 6), v[:5]),
    "a chain": lambda x, v: x + torch.linalg.multi_dot((v[None, :3], v.view(3, 2), v.view(2, 3), v.view(3, 2), v[:2])),
}


@pytest.mark.parametrize("function", PRODUCTS.values(), ids=PRODUCTS.keys())
def test_products_of_other_spellings_become_products_of_matrices(function: Callable[..., Tensor]) -> None:
    _, record = _normalized(function, _x(), v=normal(WIDTH, seed=2))
    assert record.matches
