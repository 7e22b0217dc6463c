"""What every other spelling must be: the same numbers, shapes and dtypes, and nothing left for a second run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx

from passes.clean.normalize_synonyms import NormalizeSynonyms
from passes.graph.operators import GETITEM, aten
from passes.runner import PassRecord
from tests.passes.drawn import drawn
from tests.passes.models import run, text, wrong_metadata


def respelled(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[fx.GraphModule, PassRecord]:
    """The graph of a function after the pass; tensors that it closes over are stored."""
    graph, record = run(drawn(function, *inputs), NormalizeSynonyms())
    made, expected = graph(*inputs), function(*inputs)
    assert (made.shape, made.dtype) == (expected.shape, expected.dtype)
    assert torch.allclose(made, expected, rtol=1e-11, atol=1e-13, equal_nan=True)
    assert wrong_metadata(graph, *inputs) == []
    again, second = run(graph, NormalizeSynonyms())
    assert second.matches == ()
    assert text(again) == text(graph)
    return graph, record


def check_spelling(function: Callable[..., Tensor], targets: Sequence[object] | None, *inputs: Tensor) -> None:
    """The pass finds something in a function, and leaves these operators where they are named."""
    graph, record = respelled(function, *inputs)
    assert record.matches
    assert targets is None or operators(graph) == targets


def operators(graph: fx.GraphModule) -> list[object]:
    """The operators of a graph in order, without pieces and sizes."""
    left_out = (aten.sym_size.int, GETITEM, aten.lift_fresh_copy.default, aten.detach_.default)
    return [n.target for n in graph.graph.nodes if n.op == "call_function" and n.target not in left_out]
