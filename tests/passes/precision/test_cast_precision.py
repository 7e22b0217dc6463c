"""A cast graph computes in half precision, but for islands, with one cast for each value and direction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.errors import ParallelizeError
from passes.graph.operators import ATTENTION, LAYER_NORM, LINEAR, aten
from passes.graph.outputs import flat_outputs
from passes.graph.parameters import read_parameter
from passes.precision.cast_precision import HALF_DTYPES, CastPrecision, Precision
from tests.passes.models import (
    TOKENS,
    WIDTH,
    Attention,
    Convolution,
    Function,
    LayerScale,
    Mlp,
    Residual,
    fixed_graph_of,
    images,
    mlps,
    normal,
    randomised,
    relative_error,
    run,
    text,
    tokens,
    vision,
    wrong_metadata,
)
from tests.passes.precision.casts import (
    CAST,
    DTYPES,
    KEEP_NOTHING,
    ROUNDING,
    bytes_of,
    cast_graph,
    dtypes_of,
    needless_casts,
    nodes_of,
)

# ------------------------------------------------------------------------------------------------- what it does


@DTYPES
def test_products_compute_in_half_precision_and_norms_and_sums_in_that_of_the_graph(dtype: Precision) -> None:
    _, graph = vision()
    cast, record = run(graph, CastPrecision(dtype), images())
    half = HALF_DTYPES[dtype]
    assert dtypes_of(cast, LINEAR, ATTENTION, aten.gelu.default) == {half}
    assert dtypes_of(cast, LAYER_NORM) == {torch.float64}
    assert {node.meta["val"].dtype for node in nodes_of(cast, aten.add.Tensor)} == {half, torch.float64}
    assert "linear" in record.matches
    assert 0 < record.error < ROUNDING[dtype]  # type: ignore[operator]


@DTYPES
@pytest.mark.parametrize("keep", [KEEP_NOTHING, {"state": False}, {}], ids=["nothing", "no state", "all"])
def test_inputs_and_outputs_keep_their_dtype_and_every_batch_runs(dtype: Precision, keep: dict[str, bool]) -> None:
    _, graph = vision()
    cast = cast_graph(graph, dtype, **keep)
    for batch in (1, 3, 7):
        (expected,), (actual,) = (flat_outputs(g, (images(batch),)) for g in (graph, cast))
        assert actual.dtype == torch.float64
        assert relative_error(actual, expected) < ROUNDING[dtype]
        assert wrong_metadata(cast, images(batch)) == []


@DTYPES
def test_weights_are_stored_in_half_precision(dtype: Precision) -> None:
    graph = fixed_graph_of(randomised(Residual([Mlp(), Mlp()])).float(), tokens().float())
    assert bytes_of(cast_graph(graph, dtype, **KEEP_NOTHING)) == bytes_of(graph) / 2
    cast = cast_graph(graph, dtype)
    norms = sum(4 * 2 * WIDTH for _ in nodes_of(graph, LAYER_NORM))
    assert bytes_of(cast) == (bytes_of(graph) + norms) / 2
    assert {str(node.target) for node in graph.graph.find_nodes(op="get_attr")} >= {
        str(node.target) for node in cast.graph.find_nodes(op="get_attr") if node.meta["val"].dtype == torch.float32
    }


def test_a_term_costs_one_cast_into_it_and_one_out_of_it() -> None:
    _, graph = mlps(6)
    cast = cast_graph(graph, "fp16")
    assert len(nodes_of(cast, CAST)) == 12
    assert list(needless_casts(cast)) == []


def test_without_islands_only_inputs_and_outputs_are_cast() -> None:
    _, graph = mlps(6)
    casts = nodes_of(cast_graph(graph, "bf16", **KEEP_NOTHING), CAST)
    assert [node.args[1] for node in casts] == [torch.bfloat16, torch.float64]


def test_a_sum_in_half_precision_is_cast_for_each_norm_only() -> None:
    _, graph = mlps(6)
    cast = cast_graph(graph, "fp16", state=False)
    assert dtypes_of(cast, aten.add.Tensor) == {torch.float16}
    assert len(nodes_of(cast, CAST)) == 1 + 5 + 6 + 1  # input; states but the first, which is the input; norms; output
    assert list(needless_casts(cast)) == []


@DTYPES
@pytest.mark.parametrize("keep", [KEEP_NOTHING, {"state": False}, {}], ids=["nothing", "no state", "all"])
def test_a_second_run_matches_nothing(dtype: Precision, keep: dict[str, bool]) -> None:
    _, graph = vision()
    once = cast_graph(graph, dtype, **keep)
    again, record = run(once, CastPrecision(dtype, **keep))
    assert record.matches == ()
    assert text(again) == text(once)


def test_the_graph_that_was_cast_is_not_changed() -> None:
    _, graph = vision()
    before, size = text(graph), bytes_of(graph)
    cast_graph(graph, "fp16")
    assert (text(graph), bytes_of(graph)) == (before, size)


def test_assertions_on_the_dtypes_of_before_are_removed() -> None:
    graph = fixed_graph_of(randomised(nn.Linear(WIDTH, WIDTH)), tokens())
    output = graph.graph.output_node()
    with graph.graph.inserting_before(output):
        graph.graph.call_function(aten._assert_tensor_metadata.default, (output.args[0], None, None, torch.float64))
    graph.recompile()
    assert nodes_of(cast_graph(graph, "fp16"), aten._assert_tensor_metadata.default) == []


# ------------------------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize("model", ["mlp", "attention", "convolution", "scaled"])
@DTYPES
def test_islands_make_the_outputs_no_worse(dtype: Precision, model: str) -> None:
    term: dict[str, Callable[[], nn.Module]] = {
        "mlp": Mlp,
        "attention": lambda: Attention("chunk"),
        "convolution": Convolution,
        "scaled": lambda: LayerScale(Mlp()),
    }
    x = normal(16, WIDTH, 6, 6) if model == "convolution" else tokens(16)
    graph = fixed_graph_of(randomised(Residual([term[model]() for _ in range(6)])), x)
    bare, with_islands = (
        (cast_graph(graph, dtype, **keep)(x) - graph(x)).norm() / graph(x).norm() for keep in (KEEP_NOTHING, {})
    )
    assert 0 < with_islands <= 1.05 * bare < ROUNDING[dtype]


def test_a_state_beyond_the_range_of_fp16_needs_its_sum_in_fp32() -> None:
    graph = fixed_graph_of(randomised(Residual([Mlp() for _ in range(3)])), tokens())
    large = 1e5 * tokens()
    assert not cast_graph(graph, "fp16", state=False)(large).isfinite().all()
    assert relative_error(cast_graph(graph, "fp16")(large), graph(large)) < 1e-4


# ------------------------------------------------------------------------------------------------- tied weights


def _tied(self: Function, ids: Tensor) -> Tensor:
    x = self.e(ids)
    return F.linear(x, self.e.weight) + (x @ self.e.weight.t())  # type: ignore[no-any-return]


def test_tied_weights_stay_tied() -> None:
    graph = fixed_graph_of(
        randomised(Function(_tied, e=nn.Embedding(11, WIDTH))), torch.zeros(3, TOKENS, dtype=torch.int64)
    )
    assert bytes_of(cast_graph(graph, "fp16")) == 11 * WIDTH * 2


def test_two_names_and_two_views_of_one_memory_share_it() -> None:
    def forward(self: Function, x: Tensor) -> Any:
        return F.linear(F.linear(F.linear(x, self.a), self.b), self.c)

    weight = normal(WIDTH, WIDTH)
    graph = fixed_graph_of(Function(forward, a=weight, b=weight, c=weight.t()).eval(), tokens())
    cast = cast_graph(graph, "bf16")
    stored = [read_parameter(cast, node) for node in cast.graph.find_nodes(op="get_attr")]
    assert len({value.data_ptr() for value in stored}) == 1
    assert relative_error(cast(tokens()), graph(tokens())) < ROUNDING["bf16"]


def test_what_an_island_and_a_product_read_is_stored_in_both_precisions() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        return F.layer_norm(self.a(x), (WIDTH,), self.g) @ torch.diag(self.g)

    graph = fixed_graph_of(randomised(Function(forward, a=nn.Linear(WIDTH, WIDTH), g=torch.ones(WIDTH))), tokens())
    cast = cast_graph(graph, "fp16")
    assert {
        source.meta["val"].dtype for node in nodes_of(cast, aten.diag.default) for source in node.all_input_nodes
    } == {torch.float16}
    assert dtypes_of(cast, LAYER_NORM) == {torch.float64}
    assert relative_error(cast(tokens()), graph(tokens())) < ROUNDING["fp16"]


def test_fp32_leaves_the_graph_as_it_is() -> None:
    _, graph = vision()
    same, record = run(graph, CastPrecision("fp32"))
    assert record.matches == record.skipped == ()
    assert text(same) == text(graph)


def test_an_unknown_precision_is_refused_with_its_name() -> None:
    with pytest.raises(ParallelizeError, match="There is no precision 'fp8'") as caught:
        run(vision()[1], CastPrecision("fp8"))  # type: ignore[arg-type]
    assert caught.value.hint == "Use fp32, fp16 or bf16."


def test_a_graph_in_half_precision_is_left_with_the_reason() -> None:
    model = randomised(Residual([Mlp(), Mlp()])).bfloat16()
    graph = fixed_graph_of(model, tokens().bfloat16())
    kept, record = run(graph, CastPrecision("fp16"))
    (skip,) = record.skipped
    assert skip.reason == "linear computes in half precision already, so what is wider in its graph is meant to be"
    assert record.matches == ()
    assert text(kept) == text(graph)
