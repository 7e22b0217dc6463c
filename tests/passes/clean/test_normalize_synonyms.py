"""Operators of several spellings are written in one, and the numbers stay."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx

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


# one of each kind, its batch free: passes/clean/synonyms*.py have tests of all, with fixed sizes
FREE: dict[str, tuple[Callable[..., Tensor], list[object] | None]] = {
    "another name": (lambda x: x.swapaxes(1, 2).absolute(), [aten.transpose.int, aten.abs.default]),
    "a shape of another tensor": (
        lambda x: x.flatten(1).view_as(x),
        [aten.flatten.using_ints, aten.reshape.default],
    ),
    "pieces": (lambda x: x.tensor_split(4, -1)[0], [aten.split_with_sizes.default]),
    "a statistic": (lambda x: x.std((0, 1)) + x.max(), None),
    "a norm": (lambda x: x / x.norm(dim=-1, keepdim=True), None),
    "an einsum": (
        lambda x: torch.einsum("bid,bjd->bij", x, x.cos()),
        [aten.cos.default, aten.transpose.int, aten.matmul.default],
    ),
    "an einsum over the batch": (lambda x: torch.einsum("bij,bkl->ikjl", x, x), None),
    "an einsum that keeps two free sizes": (lambda x: torch.einsum("bij,cij->bc", x, x), None),
    "a product with a vector": (lambda x: x[0, 0] @ x.mT, None),
}


@pytest.mark.parametrize("name", FREE)
def test_each_kind_of_spelling_keeps_a_free_batch(name: str) -> None:
    function, targets = FREE[name]
    graph, record = _normalized(function, _x())
    assert record.matches
    assert targets is None or _targets(graph) == targets


def test_an_einsum_with_a_stored_weight_becomes_a_linear() -> None:
    graph, record = _normalized(lambda x, w: torch.einsum("bid,od->boi", x, w), _x(), w=normal(5, WIDTH))
    assert LINEAR in _targets(graph)
    assert record.matches == ("einsum",)


def test_a_result_of_several_that_is_read_whole_stays() -> None:
    graph = graph_of(Function(lambda s, x: sum(torch.frexp(x))).eval(), _x())
    result, record = run(graph, NormalizeSynonyms())
    assert record.matches == ()
    assert text(result) == text(graph)


def test_sizes_of_1_are_repeated_as_an_einsum_does() -> None:
    inputs = normal(BATCH, TOKENS, 1), normal(BATCH, TOKENS, WIDTH, seed=2)
    _normalized(lambda x, y: torch.einsum("bid,bjd->bij", x, y), *inputs)
