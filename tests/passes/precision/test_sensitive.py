"""Guards against a division by zero still guard in half precision, and what becomes an integer becomes the same one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.precision.cast_precision import CastPrecision
from tests.passes.models import WIDTH, Function, fixed_graph_of, normal, relative_error, run, text, wrong_metadata

aten = torch.ops.aten

ROWS = 2000
ROUNDING = 5e-3
KEEP_NOTHING = {"norms": False, "softmax": False, "state": False}
KEPT = pytest.mark.parametrize("keep", [KEEP_NOTHING, {}], ids=["nothing", "all"])


def _graph(forward: Callable[..., Any], x: Tensor, **parts: nn.Module | Tensor) -> fx.GraphModule:
    torch.manual_seed(0)
    linear = nn.Linear(WIDTH, WIDTH, bias=False)
    return fixed_graph_of(Function(forward, a=linear, **parts).float().eval(), x)


def _inputs() -> Tensor:
    """Rows of numbers, and one of zeros."""
    x = normal(4, WIDTH).float()
    x[1] = 0
    return x


def _uniform() -> Tensor:
    return torch.rand(ROWS, 1, generator=torch.Generator().manual_seed(0))


def _casts(graph: fx.GraphModule) -> list[tuple[fx.Node, object]]:
    return [(node.args[0], node.args[1]) for node in graph.graph.nodes if node.target == aten.to.dtype]


def _check_cast(cast: fx.GraphModule, x: Tensor, keep: dict[str, bool]) -> None:
    """No value is cast twice, the metadata is right, and a second cast changes nothing."""
    assert len(set(_casts(cast))) == len(_casts(cast))
    assert wrong_metadata(cast, x) == []
    again, record = run(cast, CastPrecision("fp16", **keep))
    assert (record.matches, text(again)) == ((), text(cast))


def _reasons(graph: fx.GraphModule, **keep: bool) -> dict[str, str]:
    return {skip.node: skip.reason for skip in run(graph, CastPrecision("fp16", **keep))[1].skipped}


# -------------------------------------------------------------------------------------- numbers that are rounded to 0


def _normalized(self: Function, x: Tensor) -> Tensor:
    return self.b(F.normalize(self.a(x)))  # type: ignore[no-any-return]


def _shares(self: Function, x: Tensor) -> Tensor:
    y = self.a(x).relu()
    return y / (y.sum(-1, keepdim=True) + 1e-9)  # type: ignore[no-any-return]


def _shares_of_a_stored_number(self: Function, x: Tensor) -> Tensor:
    y = self.a(x).relu()
    return y / (y.sum(-1, keepdim=True) + self.least)  # type: ignore[no-any-return]


def _shares_at_least(self: Function, x: Tensor) -> Tensor:
    total = self.a(x).relu().sum(-1, keepdim=True)
    return self.a(x).relu() / torch.maximum(total, torch.full_like(total, 1e-9))  # type: ignore[no-any-return]


def _inverse(self: Function, x: Tensor) -> Tensor:
    y = self.a(x)
    return y * torch.rsqrt(y.square().sum(-1, keepdim=True) + 1e-10)  # type: ignore[no-any-return]


def _summed_after_the_guard(self: Function, x: Tensor) -> Tensor:
    y = self.a(x).relu() + 1e-8
    return y / y.sum(-1, keepdim=True)  # type: ignore[no-any-return]


def _similarity(self: Function, x: Tensor) -> Tensor:
    return F.cosine_similarity(self.a(x), x, dim=-1)


def _logarithm(self: Function, x: Tensor) -> Tensor:
    return (self.a(x).relu() + 1e-9).log()  # type: ignore[no-any-return]


@KEPT
@pytest.mark.parametrize(
    "forward",
    [
        _normalized,
        _shares,
        _shares_of_a_stored_number,
        _shares_at_least,
        _inverse,
        _summed_after_the_guard,
        _similarity,
        _logarithm,
    ],
)
def test_a_row_of_zeros_gives_what_it_does_in_fp32(forward: Callable[..., Tensor], keep: dict[str, bool]) -> None:
    x = _inputs()
    graph = _graph(forward, x, b=nn.Linear(WIDTH, WIDTH, bias=False), least=torch.tensor(1e-9))
    cast, record = run(graph, CastPrecision("fp16", **keep))
    actual, expected = cast(x), graph(x)
    assert actual.isfinite().all()
    assert torch.allclose(actual[1], expected[1], rtol=1e-5)
    assert relative_error(actual, expected) < ROUNDING
    assert "linear" in record.matches
    _check_cast(cast, x, keep)


def test_the_reason_names_the_number_and_ends_with_the_division() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        return self.a(_shares(self, x).tanh())  # type: ignore[no-any-return]

    graph = _graph(forward, _inputs())
    assert _reasons(graph) == {
        "add": "add has the number 1e-09, which float16 rounds to 0",
        "div": "div may read a value that float16 rounds to 0",
    }
    assert run(graph, CastPrecision("bf16"))[1].skipped == ()


def test_a_comparison_with_such_a_number_is_made_in_fp32() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        return torch.where(self.a(x).relu() >= 1e-9, 1.0, 0.0)

    x = _inputs()
    graph = _graph(forward, x)
    assert torch.equal(run(graph, CastPrecision("fp16"))[0](x), graph(x))


def test_a_number_that_half_precision_holds_is_no_reason() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        y = self.a(x)
        return y / (y.square().sum(-1, keepdim=True) + 1e-3) + F.layer_norm(y, (WIDTH,), eps=1e-12)  # type: ignore[no-any-return]

    assert _reasons(_graph(forward, _inputs()), **KEEP_NOTHING) == {}


# ------------------------------------------------------------------------------------------- what becomes an integer


def _row(self: Function, x: Tensor) -> Tensor:
    return (x * 4000).to(torch.int64)


def _row_of_a_floor(self: Function, x: Tensor) -> Tensor:
    return torch.floor(x * 4000 + 0.5).to(torch.int64)


def _row_of_a_range(self: Function, x: Tensor) -> Tensor:
    return ((x - x.amin((0, 1))) / (x.amax((0, 1)) - x.amin((0, 1))) * 4000).round().to(torch.int64)


def _row_of_a_place(self: Function, x: Tensor) -> Tensor:
    return torch.bucketize(x * 2, torch.linspace(0, 2, 4000))


def _row_of_the_largest(self: Function, x: Tensor) -> Tensor:
    return (x.expand(-1, WIDTH) * torch.linspace(0.9, 1.1, WIDTH)).sin().flip(-1).topk(3)[1]


def _row_of_the_nearest(self: Function, x: Tensor) -> Tensor:
    return (x - torch.linspace(0, 1, 4000)).abs().argmin(-1)


@KEPT
@pytest.mark.parametrize(
    "forward",
    [_row, _row_of_a_floor, _row_of_a_range, _row_of_a_place, _row_of_the_largest, _row_of_the_nearest],
)
def test_the_rows_of_a_table_are_those_of_fp32(forward: Callable[..., Tensor], keep: dict[str, bool]) -> None:
    def looked_up(self: Function, x: Tensor) -> tuple[Tensor, Tensor]:
        row = forward(self, x)
        return row, self.a(self.e(row))

    x = _uniform()
    graph = _graph(looked_up, x, e=nn.Embedding(4001, WIDTH))
    cast, record = run(graph, CastPrecision("fp16", **keep))
    (expected_row, expected), (row, actual) = graph(x), cast(x)
    assert torch.equal(row, expected_row)
    assert relative_error(actual, expected) < ROUNDING
    assert {"embedding", "linear"} <= set(record.matches)
    _check_cast(cast, x, keep)


def test_what_a_network_computed_is_not_rounded_once_more_before_it_becomes_an_integer() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        return (self.a(x).sigmoid() * 4000).to(torch.int64)

    x = normal(64, WIDTH).float()
    graph = _graph(forward, x)
    cast, record = run(graph, CastPrecision("fp16", **KEEP_NOTHING))
    assert {skip.reason for skip in record.skipped} == {"sigmoid becomes an integer", "mul becomes an integer"}
    assert record.matches == ("linear",)
    assert (cast(x) - graph(x)).abs().max() <= 2


def test_a_place_among_products_needs_no_cast() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        return self.a(x).argmax(-1)  # type: ignore[no-any-return]

    cast, record = run(_graph(forward, _inputs()), CastPrecision("fp16"))
    assert record.skipped == ()
    assert len(_casts(cast)) == 1


def test_a_residual_sum_that_becomes_an_integer_is_left_to_the_choice_for_sums() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for _ in range(3):
            x = x + self.a(x.tanh())
        return x.argmax(-1)

    graph = _graph(forward, _inputs())
    assert _reasons(graph, state=False) == {}


def test_what_is_compared_stays_if_it_comes_from_the_inputs_alone() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        y = self.a(x)
        chosen = torch.where(x * 3 > 0.3, 1.0, 0.0).sum(-1, keepdim=True)
        return self.a(x * 3) * chosen * torch.where(y * 3 > 0, y, 0.0)  # type: ignore[no-any-return]

    reasons = _reasons(_graph(forward, _uniform().expand(-1, WIDTH)), **KEEP_NOTHING)
    assert reasons["mul"] == "mul is compared"
    assert [reason for reason in reasons.values() if reason.endswith("compared")] == ["mul is compared"]
