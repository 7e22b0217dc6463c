"""A cast graph computes in half precision, but for islands, with one cast for each value and direction."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.clean.remove_identities import RemoveIdentities
from passes.errors import ParallelizeError
from passes.graph.operators import ATTENTION, LAYER_NORM, LINEAR, SOFTMAXES
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

aten = torch.ops.aten

CAST = aten.to.dtype
ROUNDING = {"fp16": 5e-3, "bf16": 4e-2}
DTYPES = pytest.mark.parametrize("dtype", ["fp16", "bf16"])
LEAST = torch.finfo(torch.float32).min
KEEP_NOTHING = {"norms": False, "softmax": False, "state": False}


def _nodes(graph: fx.GraphModule, *targets: object) -> list[fx.Node]:
    return [node for node in graph.graph.nodes if node.target in targets]


def _dtypes(graph: fx.GraphModule, *targets: object) -> set[torch.dtype]:
    """The dtypes that the operators compute in; of an operator, that of every tensor it reads too."""
    read = {source.meta["val"].dtype for node in _nodes(graph, *targets) for source in node.all_input_nodes}
    return read | {node.meta["val"].dtype for node in _nodes(graph, *targets)}


def _bytes(graph: fx.GraphModule) -> int:
    values = [read_parameter(graph, node) for node in graph.graph.find_nodes(op="get_attr")]
    return sum({value.data_ptr(): value.numel() * value.element_size() for value in values}.values())


def _needless_casts(graph: fx.GraphModule) -> Iterator[str]:
    """Casts of casts, and values that are cast twice to one dtype."""
    casts = _nodes(graph, CAST)
    yield from (node.name for node in casts if node.args[0].target == CAST)
    counts = Counter((node.args[0], node.args[1]) for node in casts)
    yield from (source.name for (source, _), count in counts.items() if count > 1)


def _cast(graph: fx.GraphModule, dtype: Precision, **keep: bool) -> fx.GraphModule:
    return run(graph, CastPrecision(dtype, **keep))[0]


def _reasons(graph: fx.GraphModule, dtype: Precision = "fp16", **keep: bool) -> dict[str, str]:
    return {skip.node: skip.reason for skip in run(graph, CastPrecision(dtype, **keep))[1].skipped}


# ------------------------------------------------------------------------------------------------- what it does


@DTYPES
def test_products_compute_in_half_precision_and_norms_and_sums_in_that_of_the_graph(dtype: Precision) -> None:
    _, graph = vision()
    cast, record = run(graph, CastPrecision(dtype), images())
    half = HALF_DTYPES[dtype]
    assert _dtypes(cast, LINEAR, ATTENTION, aten.gelu.default) == {half}
    assert _dtypes(cast, LAYER_NORM) == {torch.float64}
    assert {node.meta["val"].dtype for node in _nodes(cast, aten.add.Tensor)} == {half, torch.float64}
    assert "linear" in record.matches
    assert 0 < record.error < ROUNDING[dtype]  # type: ignore[operator]


@DTYPES
@pytest.mark.parametrize("keep", [KEEP_NOTHING, {"state": False}, {}], ids=["nothing", "no state", "all"])
def test_inputs_and_outputs_keep_their_dtype_and_every_batch_runs(dtype: Precision, keep: dict[str, bool]) -> None:
    _, graph = vision()
    cast = _cast(graph, dtype, **keep)
    for batch in (1, 3, 7):
        (expected,), (actual,) = (flat_outputs(g, (images(batch),)) for g in (graph, cast))
        assert actual.dtype == torch.float64
        assert relative_error(actual, expected) < ROUNDING[dtype]
        assert wrong_metadata(cast, images(batch)) == []


@DTYPES
def test_weights_are_stored_in_half_precision(dtype: Precision) -> None:
    graph = fixed_graph_of(randomised(Residual([Mlp(), Mlp()])).float(), tokens().float())
    assert _bytes(_cast(graph, dtype, **KEEP_NOTHING)) == _bytes(graph) / 2
    cast = _cast(graph, dtype)
    norms = sum(4 * 2 * WIDTH for _ in _nodes(graph, LAYER_NORM))
    assert _bytes(cast) == (_bytes(graph) + norms) / 2
    assert {str(node.target) for node in graph.graph.find_nodes(op="get_attr")} >= {
        str(node.target) for node in cast.graph.find_nodes(op="get_attr") if node.meta["val"].dtype == torch.float32
    }


def test_a_term_costs_one_cast_into_it_and_one_out_of_it() -> None:
    _, graph = mlps(6)
    cast = _cast(graph, "fp16")
    assert len(_nodes(cast, CAST)) == 12
    assert list(_needless_casts(cast)) == []


def test_without_islands_only_inputs_and_outputs_are_cast() -> None:
    _, graph = mlps(6)
    casts = _nodes(_cast(graph, "bf16", **KEEP_NOTHING), CAST)
    assert [node.args[1] for node in casts] == [torch.bfloat16, torch.float64]


def test_a_sum_in_half_precision_is_cast_for_each_norm_only() -> None:
    _, graph = mlps(6)
    cast = _cast(graph, "fp16", state=False)
    assert _dtypes(cast, aten.add.Tensor) == {torch.float16}
    assert len(_nodes(cast, CAST)) == 1 + 5 + 6 + 1  # input; states but the first, which is the input; norms; output
    assert list(_needless_casts(cast)) == []


@DTYPES
@pytest.mark.parametrize("keep", [KEEP_NOTHING, {"state": False}, {}], ids=["nothing", "no state", "all"])
def test_a_second_run_matches_nothing(dtype: Precision, keep: dict[str, bool]) -> None:
    _, graph = vision()
    once = _cast(graph, dtype, **keep)
    again, record = run(once, CastPrecision(dtype, **keep))
    assert record.matches == ()
    assert text(again) == text(once)


def test_the_graph_that_was_cast_is_not_changed() -> None:
    _, graph = vision()
    before, size = text(graph), _bytes(graph)
    _cast(graph, "fp16")
    assert (text(graph), _bytes(graph)) == (before, size)


# --------------------------------------------------------------------------------------------------- what stays


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


def _transformed(self: Function, x: Tensor) -> Tensor:
    return self.a(torch.fft.rfft(self.a(x), norm="ortho").abs()[..., :1] + self.a(x))  # type: ignore[no-any-return]


def test_an_operator_without_a_form_in_half_precision_stays_with_the_reason() -> None:
    graph = fixed_graph_of(randomised(Function(_transformed, a=nn.Linear(WIDTH, WIDTH))), tokens())
    cast, record = run(graph, CastPrecision("fp16"), tokens())
    (transform,) = [node for node in cast.graph.nodes if "fft" in str(node.target)]
    assert transform.args[0].meta["val"].dtype == torch.float64
    (reason,) = [skip.reason for skip in record.skipped if skip.node == transform.name]
    assert reason == f"{transform.name} ({transform.target}) has no form in half precision"
    assert _dtypes(cast, LINEAR) == {torch.float16}
    assert wrong_metadata(cast, tokens()) == []
    assert 0 < record.error < ROUNDING["fp16"]  # type: ignore[operator]


def test_each_kind_of_island_has_its_reason() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for _ in range(2):
            x = x + self.b(self.a(self.n(x)).softmax(-1))
        return x

    parts = {"a": nn.Linear(WIDTH, WIDTH), "b": nn.Linear(WIDTH, WIDTH), "n": nn.LayerNorm(WIDTH)}
    graph = fixed_graph_of(randomised(Function(forward, **parts)), tokens())
    assert _reasons(graph) == {
        "layer_norm": "layer_norm belongs to a norm",
        "layer_norm_1": "layer_norm_1 belongs to a norm",
        "softmax": "softmax belongs to a softmax",
        "softmax_1": "softmax_1 belongs to a softmax",
        "add": "add sums up the state",
        "add_1": "add_1 sums up the state",
    }
    assert set(_reasons(graph, softmax=False, state=False)) == {"layer_norm", "layer_norm_1"}
    assert _reasons(graph, **KEEP_NOTHING) == {}


def _rms(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def _centred(x: Tensor) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)


def _by_variance(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) * (x.var(-1, keepdim=True) + 1e-6) ** -0.5


def _exponentials(x: Tensor) -> Tensor:
    e = torch.exp(x - x.amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True)


@pytest.mark.parametrize("written_out", [_rms, _centred, _by_variance, _exponentials])
def test_what_is_spelled_out_stays_as_the_operator_does(written_out: Callable[[Tensor], Tensor]) -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        return self.b(self.g * written_out(self.a(x)))  # type: ignore[no-any-return]

    parts = {"a": nn.Linear(WIDTH, WIDTH), "b": nn.Linear(WIDTH, WIDTH), "g": torch.ones(WIDTH)}
    graph = fixed_graph_of(randomised(Function(forward, **parts)), tokens())
    cast = _cast(graph, "bf16")
    linears = _nodes(cast, LINEAR)
    inside = [node for node in cast.graph.nodes if linears[0] < node < linears[1] and node.target != CAST]
    *island, gain = [node for node in inside if node.op == "call_function"]
    assert {node.meta["val"].dtype for node in island} == {torch.float64}
    assert gain.meta["val"].dtype == torch.bfloat16
    assert len(_nodes(cast, CAST)) == 4
    keep = {"norms": written_out is _exponentials, "softmax": written_out is not _exponentials}
    assert _reasons(graph, **keep) == {}


def test_a_view_between_islands_is_no_reason_to_cast_there_and_back() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        y = self.n(self.a(x)).reshape(-1, WIDTH)
        return self.n(y) + self.a(y)  # type: ignore[no-any-return]

    graph = fixed_graph_of(randomised(Function(forward, a=nn.Linear(WIDTH, WIDTH), n=nn.LayerNorm(WIDTH))), tokens())
    cast = _cast(graph, "fp16")
    (view,) = _nodes(cast, aten.reshape.default)
    assert view.meta["val"].dtype == torch.float64
    assert _reasons(graph)["reshape"] == "reshape lies between values that stay"
    assert list(_needless_casts(cast)) == []


def test_parts_of_a_split_state_stay_with_it() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        left, right = self.n(self.a(x)).chunk(2, dim=-1)
        return self.b(left) + self.m(right)  # type: ignore[no-any-return]

    half = WIDTH // 2
    parts = {
        "a": nn.Linear(WIDTH, WIDTH),
        "b": nn.Linear(half, half),
        "n": nn.LayerNorm(WIDTH),
        "m": nn.LayerNorm(half),
    }
    graph = fixed_graph_of(randomised(Function(forward, **parts)), tokens())
    cast = _cast(graph, "bf16")
    assert wrong_metadata(cast, tokens()) == []
    assert relative_error(cast(tokens()), graph(tokens())) < ROUNDING["bf16"]


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
        (_cast(graph, dtype, **keep)(x) - graph(x)).norm() / graph(x).norm() for keep in (KEEP_NOTHING, {})
    )
    assert 0 < with_islands <= 1.05 * bare < ROUNDING[dtype]


def test_a_state_beyond_the_range_of_fp16_needs_its_sum_in_fp32() -> None:
    graph = fixed_graph_of(randomised(Residual([Mlp() for _ in range(3)])), tokens())
    large = 1e5 * tokens()
    assert not _cast(graph, "fp16", state=False)(large).isfinite().all()
    assert relative_error(_cast(graph, "fp16")(large), graph(large)) < 1e-4


def test_a_weight_beyond_the_range_is_clamped_and_an_infinity_stays_one() -> None:
    model = randomised(nn.Linear(3, 2))
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1e6, -1e6, 1.0], [torch.inf, 0.0, 0.0]]))  # type: ignore[operator]
    cast = _cast(fixed_graph_of(model, normal(3, 3)), "fp16")
    stored = [read_parameter(cast, node) for node in cast.graph.find_nodes(op="get_attr")]
    (weight,) = [value for value in stored if value.ndim == 2]
    assert weight.tolist() == [[65504.0, -65504.0, 1.0], [math.inf, 0.0, 0.0]]


# -------------------------------------------------------------------------------------------------------- masks


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
    cast = _cast(graph, dtype, **({} if keep_islands else KEEP_NOTHING))
    inputs = tokens().float(), mask
    assert cast(*inputs).isfinite().all()
    assert relative_error(cast(*inputs)[:2], graph(*inputs)[:2]) < ROUNDING[dtype]
    assert wrong_metadata(cast, *inputs) == []


def test_a_number_beyond_the_range_is_clamped_in_a_half_operator() -> None:
    graph = fixed_graph_of(
        randomised(Function(_filled, a=nn.Linear(WIDTH, WIDTH))), tokens(), torch.ones(3, TOKENS, dtype=torch.bool)
    )
    (fill,) = _nodes(_cast(graph, "fp16"), aten.masked_fill.Scalar)
    assert fill.args[2] == -65504.0


# ------------------------------------------------------------------------------------- integers and conversions


def _positions(self: Function, ids: Tensor) -> Tensor:
    angles = torch.arange(ids.shape[1]).float()[:, None] / torch.tensor([1.0, 10.0] * (WIDTH // 2))
    return self.a(self.e(ids) + angles.cos())  # type: ignore[no-any-return]


@DTYPES
def test_integers_stay_and_what_is_computed_from_them_does_too(dtype: Precision) -> None:
    model = randomised(Function(_positions, a=nn.Linear(WIDTH, WIDTH), e=nn.Embedding(11, WIDTH))).float()
    ids = torch.randint(0, 11, (3, 600), generator=torch.Generator().manual_seed(0))
    graph = fixed_graph_of(model, ids)
    cast = _cast(graph, dtype)
    (placeholder,) = cast.graph.find_nodes(op="placeholder")
    assert placeholder.meta["val"].dtype == torch.int64
    assert _dtypes(cast, aten.cos.default) == {torch.float32}
    assert {node.meta["val"].dtype for node in _nodes(cast, aten.embedding.default)} == {HALF_DTYPES[dtype]}
    assert relative_error(cast(ids), graph(ids)) < ROUNDING[dtype]
    assert wrong_metadata(cast, ids) == []
    assert _reasons(graph)["cos"] == "cos is computed from integers or after a conversion of the model's own"


def _upcast(self: Function, x: Tensor) -> Tensor:
    y = self.a(x)
    wide = y.to(torch.float32)
    spread = wide.pow(2).mean(-1, keepdim=True).clamp_min(1e-6)
    return self.b(self.g * (wide / spread)) + y.softmax(-1, dtype=torch.float32)  # type: ignore[no-any-return]


def test_conversions_of_the_model_to_fp32_are_kept() -> None:
    parts = {"a": nn.Linear(WIDTH, WIDTH), "b": nn.Linear(WIDTH, WIDTH), "g": torch.ones(WIDTH)}
    graph = fixed_graph_of(randomised(Function(_upcast, **parts)).float(), tokens().float())
    cast = _cast(graph, "bf16", **KEEP_NOTHING)
    assert _dtypes(cast, aten.pow.Tensor_Scalar, aten.mean.dim, aten.div.Tensor, *SOFTMAXES) == {torch.float32}
    assert _dtypes(cast, LINEAR) == {torch.bfloat16}
    assert list(_needless_casts(cast)) == []
    first, _ = _nodes(cast, LINEAR)
    assert [user.target for user in first.users] == [CAST]
    x = tokens().float()
    assert relative_error(cast(x), graph(x)) < ROUNDING["bf16"]
    assert wrong_metadata(cast, x) == []


def test_a_conversion_that_does_nothing_in_the_graph_may_go_before_the_cast() -> None:
    parts = {"a": nn.Linear(WIDTH, WIDTH), "b": nn.Linear(WIDTH, WIDTH), "g": torch.ones(WIDTH)}
    graph = fixed_graph_of(randomised(Function(_upcast, **parts)).float(), tokens().float())
    cast = _cast(run(graph, RemoveIdentities())[0], "bf16", **KEEP_NOTHING)
    assert _dtypes(cast, aten.pow.Tensor_Scalar) == {torch.bfloat16}


def test_a_value_is_not_brought_to_fp32_and_back() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        return self.b(self.a(x).to(torch.float32))  # type: ignore[no-any-return]

    parts = {"a": nn.Linear(WIDTH, WIDTH), "b": nn.Linear(WIDTH, WIDTH)}
    cast = _cast(fixed_graph_of(randomised(Function(forward, **parts)).float(), tokens().float()), "fp16")
    first, second = _nodes(cast, LINEAR)
    assert second.args[0] is first


def test_assertions_on_the_dtypes_of_before_are_removed() -> None:
    graph = fixed_graph_of(randomised(nn.Linear(WIDTH, WIDTH)), tokens())
    output = graph.graph.output_node()
    with graph.graph.inserting_before(output):
        graph.graph.call_function(aten._assert_tensor_metadata.default, (output.args[0], None, None, torch.float64))
    graph.recompile()
    assert _nodes(_cast(graph, "fp16"), aten._assert_tensor_metadata.default) == []


# ------------------------------------------------------------------------------------------------- tied weights


def _tied(self: Function, ids: Tensor) -> Tensor:
    x = self.e(ids)
    return F.linear(x, self.e.weight) + (x @ self.e.weight.t())  # type: ignore[no-any-return]


def test_tied_weights_stay_tied() -> None:
    graph = fixed_graph_of(
        randomised(Function(_tied, e=nn.Embedding(11, WIDTH))), torch.zeros(3, TOKENS, dtype=torch.int64)
    )
    assert _bytes(_cast(graph, "fp16")) == 11 * WIDTH * 2


def test_two_names_and_two_views_of_one_memory_share_it() -> None:
    def forward(self: Function, x: Tensor) -> Any:
        return F.linear(F.linear(F.linear(x, self.a), self.b), self.c)

    weight = normal(WIDTH, WIDTH)
    graph = fixed_graph_of(Function(forward, a=weight, b=weight, c=weight.t()).eval(), tokens())
    cast = _cast(graph, "bf16")
    stored = [read_parameter(cast, node) for node in cast.graph.find_nodes(op="get_attr")]
    assert len({value.data_ptr() for value in stored}) == 1
    assert relative_error(cast(tokens()), graph(tokens())) < ROUNDING["bf16"]


def test_what_an_island_and_a_product_read_is_stored_in_both_precisions() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        return F.layer_norm(self.a(x), (WIDTH,), self.g) @ torch.diag(self.g)

    graph = fixed_graph_of(randomised(Function(forward, a=nn.Linear(WIDTH, WIDTH), g=torch.ones(WIDTH))), tokens())
    cast = _cast(graph, "fp16")
    assert {
        source.meta["val"].dtype for node in _nodes(cast, aten.diag.default) for source in node.all_input_nodes
    } == {torch.float16}
    assert _dtypes(cast, LAYER_NORM) == {torch.float64}
    assert relative_error(cast(tokens()), graph(tokens())) < ROUNDING["fp16"]
