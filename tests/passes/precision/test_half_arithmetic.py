"""Half precision as a backend computes it, and where its range ends: the first value that no other one made wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.precision.cast_precision import CastPrecision
from passes.precision.half_arithmetic import Ends, HalfArithmetic, ends_of_range, is_wrong, kept_for_range, watched
from tests.passes.drawn import drawn
from tests.passes.models import normal, run
from tests.passes.precision.casts import KEEP_NOTHING

WEIGHT = nn.Parameter(normal(6, 6).float(), requires_grad=False)
X = normal(2, 3, 6).float()


def _run(forward: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    made: Tensor = HalfArithmetic(drawn(forward, *inputs)).run(*inputs)
    return made


def test_a_product_sums_up_in_full_precision_and_rounds_once() -> None:
    x, y = torch.ones(1, 4096).half(), torch.full((4096, 1), 1.0).half()
    assert float(_run(torch.matmul, x, y)) == 4096
    large = _run(torch.matmul, 300 * x, 300 * y)
    assert large.dtype == torch.float16
    assert math.isinf(float(large))


def test_wide_products_and_values_that_are_no_products_are_computed_as_they_are() -> None:
    assert torch.equal(_run(torch.matmul, X, WEIGHT), X @ WEIGHT)
    assert torch.equal(_run(lambda x: x.half() * 1e3, X), X.half() * 1e3)


def test_only_the_wanted_values_are_kept() -> None:
    graph = drawn(lambda x: x.sin().cos().exp(), X)
    for keep, names in ((None, {"x_1", "sin", "cos", "exp", "output"}), (["cos"], {"cos"})):
        interpreter = HalfArithmetic(graph, keep)
        interpreter.run(X)
        assert set(interpreter.values) == names


QUERY, KEY = (2, 2, 3, 4), (2, 2, 5, 4)

# shapes of queries, keys and mask; of the scores the first query of the first sample is beyond the range
ATTENTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...] | None]] = {
    "heads": (QUERY, KEY, None),
    "no heads": ((2, 3, 4), (2, 5, 4), None),
    "no batch": ((3, 4), (5, 4), None),
    "one memory for all samples": (QUERY, (1, 2, 5, 4), None),
    "one query for all samples": ((1, 2, 3, 4), KEY, None),
    "one head of keys": (QUERY, (2, 1, 5, 4), None),
    "a mask": (QUERY, KEY, (3, 5)),
    "a mask of samples": (QUERY, KEY, (2, 1, 1, 5)),
    "a mask of heads": (QUERY, KEY, (2, 3, 5)),
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_a_row_with_a_score_beyond_the_range_is_no_number(name: str) -> None:
    queries, keys, mask = ATTENTIONS[name]
    q, k = normal(*queries).half(), normal(*keys, seed=2).half()
    q[(0,) * (q.ndim - 1)] = 3e4
    k[..., 0] = 60.0
    masks = [] if mask is None else [normal(*mask).half()]
    made = _run(F.scaled_dot_product_attention, q, k, k, *masks)
    lost = made.isnan().all(-1)
    first = torch.zeros_like(lost)
    first[(slice(None) if len(q) == 1 and lost.ndim > 2 else 0, *([0] * (lost.ndim - 1)))] = True
    assert torch.equal(lost, first)
    assert made[~lost].isfinite().all()


def test_a_row_that_sees_nothing_but_the_least_number_is_lost_where_its_scores_are_below_zero() -> None:
    q, k = normal(*QUERY).half(), normal(*KEY, seed=2).half()
    least = torch.zeros(3, 5).half()
    least[1] = torch.finfo(torch.float16).min
    assert _run(F.scaled_dot_product_attention, q, k, k, least).isfinite().all(), "scores of a few units round to it"
    q[0, 0, 1], k[..., 0] = torch.tensor([-200.0, 0, 0, 0]), 10.0
    lost = _run(F.scaled_dot_product_attention, q, k, k, least).isnan().all(-1)
    assert lost.nonzero().tolist() == [[0, 0, 1]]


def test_a_score_that_the_mask_hides_is_harmless() -> None:
    q, k = normal(*QUERY).half().abs(), normal(*KEY, seed=2).half()
    k[..., 4, :] = 6e4
    seen = torch.ones(3, 5, dtype=torch.bool)
    seen[:, 4] = False
    assert _run(F.scaled_dot_product_attention, q, k, k.clamp(max=1), seen).isfinite().all()


def test_outputs_of_integers_are_watched_by_what_they_are_computed_from() -> None:
    graph = drawn(lambda x: (x.sin(), (x @ WEIGHT).argmax(-1) + 1, x.long()), X)
    assert watched(graph) == ["sin", "matmul", "x_1"]


def _ends(forward: Callable[..., Tensor], x: Tensor) -> tuple[fx.GraphModule, Ends | None]:
    graph = drawn(forward, x)
    cast, _ = run(graph, CastPrecision("fp16", **KEEP_NOTHING))
    return graph, ends_of_range(graph, cast, [x], {})


def test_the_range_ends_where_a_wrong_value_has_no_wrong_source() -> None:
    graph, ends = _ends(lambda x: (x @ WEIGHT).mul(1e5).sin().cos(), X)
    assert ends is not None
    assert (ends.values, ends.first) == (("mul",), "mul")
    assert ends.size == pytest.approx(float((X @ WEIGHT * 1e5).abs().max()))
    assert [node.name for node in graph.graph.nodes if node.name in ends.values] == ["mul"]


def test_an_infinity_that_becomes_a_number_again_is_harmless() -> None:
    assert _ends(lambda x: (x @ WEIGHT).mul(1e5).tanh(), X)[1] is None
    assert _ends(lambda x: 1 / (1 + (x @ WEIGHT).mul(20).exp()), X)[1] is None


def test_what_is_not_real_may_be_wrong() -> None:
    reference, value = torch.ones(2, 3), torch.tensor([[1.0, math.inf, 1.0], [1.0, 1.0, 1.0]])
    assert is_wrong(reference, value)
    assert not is_wrong(reference, value, torch.tensor([[True, False, True]]))
    assert not is_wrong(torch.full((2, 3), math.inf), value)
    assert not is_wrong(torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.int64))
    assert is_wrong((reference, reference), (reference, value))


def test_with_a_value_stay_its_readers_and_what_else_is_out_of_range() -> None:
    graph = drawn(lambda x: x.mul(1e5).neg().sin().cos(), X)
    interpreter = HalfArithmetic(graph)
    interpreter.run(X)
    ends = Ends(("mul",), "mul", 1e5)
    kept = kept_for_range(graph, ends, [], interpreter.values, torch.float16)
    assert kept == {"mul", "neg", "sin"}  # the sine of a value beyond the range is within it again
    assert kept_for_range(graph, ends, kept, interpreter.values, torch.bfloat16) >= kept


def test_before_a_value_that_stays_and_is_wrong_all_the_same_stays_what_it_reads() -> None:
    graph = drawn(lambda x: (x.sin().cos() / x.exp()).tanh(), X)
    interpreter = HalfArithmetic(graph)
    interpreter.run(X)
    kept = kept_for_range(graph, Ends(("div",), "div", 1.0), ["div"], interpreter.values, torch.float16)
    assert kept == {"div", "cos", "exp", "tanh"}
