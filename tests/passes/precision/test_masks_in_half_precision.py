"""Masks and other numbers beyond the range of half precision become finite ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.graph.operators import aten
from passes.graph.parameters import read_parameter
from passes.precision.cast_precision import Precision
from tests.passes.models import (
    TOKENS,
    WIDTH,
    Function,
    fixed_graph_of,
    normal,
    randomised,
    relative_error,
    tokens,
    wrong_metadata,
)
from tests.passes.precision.casts import DTYPES, KEEP_NOTHING, ROUNDING, cast_graph, nodes_of

LEAST = torch.finfo(torch.float32).min


def test_a_weight_beyond_the_range_is_clamped_and_an_infinity_stays_one() -> None:
    model = randomised(nn.Linear(3, 2))
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1e6, -1e6, 1.0], [torch.inf, 0.0, 0.0]]))  # type: ignore[operator]
    cast = cast_graph(fixed_graph_of(model, normal(3, 3)), "fp16")
    stored = [read_parameter(cast, node) for node in cast.graph.find_nodes(op="get_attr")]
    (weight,) = [value for value in stored if value.ndim == 2]
    assert weight.tolist() == [[65504.0, -65504.0, 1.0], [math.inf, 0.0, 0.0]]


def _additive(self: Function, x: Tensor, keep: Tensor) -> Tensor:
    scores = self.a(x) @ x.transpose(1, 2) + torch.where(keep[:, None], 0.0, LEAST)
    return scores.softmax(-1) @ self.a(x)  # type: ignore[no-any-return]


def _filled(self: Function, x: Tensor, keep: Tensor) -> Tensor:
    scores = (self.a(x) @ x.transpose(1, 2)).masked_fill(~keep[:, None], LEAST)
    return scores.softmax(-1) @ self.a(x)  # type: ignore[no-any-return]


def _product(self: Function, x: Tensor, keep: Tensor) -> Tensor:
    bias = (1.0 - keep[:, None].float()) * LEAST
    return F.scaled_dot_product_attention(self.a(x), x, self.a(x), attn_mask=bias.expand(-1, TOKENS, -1))


def _infinite(self: Function, x: Tensor, keep: Tensor) -> Tensor:
    bias = torch.zeros(keep.shape).masked_fill(~keep, -math.inf)[:, None].expand(-1, TOKENS, -1)
    return F.scaled_dot_product_attention(self.a(x), x, self.a(x), attn_mask=bias)


def _given(self: Function, x: Tensor, bias: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(self.a(x), x, self.a(x), attn_mask=bias[:, None].expand(-1, TOKENS, -1))


@pytest.mark.parametrize("masked", [_additive, _filled, _product, _infinite, _given])
@pytest.mark.parametrize("keep_islands", [True, False])
@DTYPES
def test_masks_stay_finite_so_that_a_row_without_a_token_is_a_number(
    dtype: Precision, keep_islands: bool, masked: Callable[..., Tensor]
) -> None:
    model = randomised(Function(masked, a=nn.Linear(WIDTH, WIDTH))).float()
    keep = torch.ones(3, TOKENS, dtype=torch.bool)
    keep[1, 2:] = False
    keep[2] = False
    mask = torch.where(keep, 0.0, LEAST) if masked is _given else keep
    graph = fixed_graph_of(model, tokens().float(), mask)
    cast = cast_graph(graph, dtype, **({} if keep_islands else KEEP_NOTHING))
    inputs = tokens().float(), mask
    assert cast(*inputs).isfinite().all()
    assert relative_error(cast(*inputs)[:2], graph(*inputs)[:2]) < ROUNDING[dtype]
    assert wrong_metadata(cast, *inputs) == []


def test_a_number_beyond_the_range_is_clamped_in_a_half_operator() -> None:
    graph = fixed_graph_of(
        randomised(Function(_filled, a=nn.Linear(WIDTH, WIDTH))), tokens(), torch.ones(3, TOKENS, dtype=torch.bool)
    )
    (fill,) = nodes_of(cast_graph(graph, "fp16"), aten.masked_fill.Scalar)
    assert fill.args[2] == -65504.0
