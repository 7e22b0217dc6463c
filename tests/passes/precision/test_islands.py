"""What a cast leaves as it is: islands, whole or written out, integers, and the model's own conversions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from passes.clean.remove_identities import RemoveIdentities
from passes.graph.operators import LINEAR, SOFTMAXES, aten
from passes.precision.cast_precision import HALF_DTYPES, CastPrecision, Precision
from passes.precision.islands import Islands, find_islands
from tests.passes.drawn import drawn, inputs_of
from tests.passes.models import (
    WIDTH,
    Function,
    fixed_graph_of,
    randomised,
    relative_error,
    run,
    tokens,
    wrong_metadata,
)
from tests.passes.precision.casts import (
    CAST,
    DTYPES,
    KEEP_NOTHING,
    ROUNDING,
    cast_graph,
    dtypes_of,
    needless_casts,
    nodes_of,
    reasons_of,
)


def _transformed(self: Function, x: Tensor) -> Tensor:
    return self.a(torch.fft.rfft(self.a(x), norm="ortho").abs()[..., :1] + self.a(x))  # type: ignore[no-any-return]


def test_an_operator_without_a_form_in_half_precision_stays_with_the_reason() -> None:
    graph = fixed_graph_of(randomised(Function(_transformed, a=nn.Linear(WIDTH, WIDTH))), tokens())
    cast, record = run(graph, CastPrecision("fp16"), tokens())
    (transform,) = [node for node in cast.graph.nodes if "fft" in str(node.target)]
    assert transform.args[0].meta["val"].dtype == torch.float64
    (reason,) = [skip.reason for skip in record.skipped if skip.node == transform.name]
    assert reason == f"{transform.name} ({transform.target}) has no form in half precision"
    assert dtypes_of(cast, LINEAR) == {torch.float16}
    assert wrong_metadata(cast, tokens()) == []
    assert 0 < record.error < ROUNDING["fp16"]  # type: ignore[operator]


def test_each_kind_of_island_has_its_reason() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for _ in range(2):
            x = x + self.b(self.a(self.n(x)).softmax(-1))
        return x

    parts = {"a": nn.Linear(WIDTH, WIDTH), "b": nn.Linear(WIDTH, WIDTH), "n": nn.LayerNorm(WIDTH)}
    graph = fixed_graph_of(randomised(Function(forward, **parts)), tokens())
    assert reasons_of(graph) == {
        "layer_norm": "layer_norm belongs to a norm",
        "layer_norm_1": "layer_norm_1 belongs to a norm",
        "softmax": "softmax belongs to a softmax",
        "softmax_1": "softmax_1 belongs to a softmax",
        "add": "add sums up the state",
        "add_1": "add_1 sums up the state",
    }
    assert set(reasons_of(graph, softmax=False, state=False)) == {"layer_norm", "layer_norm_1"}
    assert reasons_of(graph, **KEEP_NOTHING) == {}


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
    cast = cast_graph(graph, "bf16")
    linears = nodes_of(cast, LINEAR)
    inside = [node for node in cast.graph.nodes if linears[0] < node < linears[1] and node.target != CAST]
    *island, gain = [node for node in inside if node.op == "call_function"]
    assert {node.meta["val"].dtype for node in island} == {torch.float64}
    assert gain.meta["val"].dtype == torch.bfloat16
    assert len(nodes_of(cast, CAST)) == 4
    keep = {"norms": written_out is _exponentials, "softmax": written_out is not _exponentials}
    assert reasons_of(graph, **keep) == {}


def test_a_view_between_islands_is_no_reason_to_cast_there_and_back() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        y = self.n(self.a(x)).reshape(-1, WIDTH)
        return self.n(y) + self.a(y)  # type: ignore[no-any-return]

    graph = fixed_graph_of(randomised(Function(forward, a=nn.Linear(WIDTH, WIDTH), n=nn.LayerNorm(WIDTH))), tokens())
    cast = cast_graph(graph, "fp16")
    (view,) = nodes_of(cast, aten.reshape.default)
    assert view.meta["val"].dtype == torch.float64
    assert reasons_of(graph)["reshape"] == "reshape lies between values that stay"
    assert list(needless_casts(cast)) == []


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
    cast = cast_graph(graph, "bf16")
    assert wrong_metadata(cast, tokens()) == []
    assert relative_error(cast(tokens()), graph(tokens())) < ROUNDING["bf16"]


# ------------------------------------------------------------------------------------- integers and conversions


def _positions(self: Function, ids: Tensor) -> Tensor:
    angles = torch.arange(ids.shape[1]).float()[:, None] / torch.tensor([1.0, 10.0] * (WIDTH // 2))
    return self.a(self.e(ids) + angles.cos())  # type: ignore[no-any-return]


@DTYPES
def test_integers_stay_and_what_is_computed_from_them_does_too(dtype: Precision) -> None:
    model = randomised(Function(_positions, a=nn.Linear(WIDTH, WIDTH), e=nn.Embedding(11, WIDTH))).float()
    ids = torch.randint(0, 11, (3, 600), generator=torch.Generator().manual_seed(0))
    graph = fixed_graph_of(model, ids)
    cast = cast_graph(graph, dtype)
    (placeholder,) = cast.graph.find_nodes(op="placeholder")
    assert placeholder.meta["val"].dtype == torch.int64
    assert dtypes_of(cast, aten.cos.default) == {torch.float32}
    assert {node.meta["val"].dtype for node in nodes_of(cast, aten.embedding.default)} == {HALF_DTYPES[dtype]}
    assert relative_error(cast(ids), graph(ids)) < ROUNDING[dtype]
    assert wrong_metadata(cast, ids) == []
    assert reasons_of(graph)["cos"] == "cos is computed from integers or after a conversion of the model's own"


def _upcast(self: Function, x: Tensor) -> Tensor:
    y = self.a(x)
    wide = y.to(torch.float32)
    spread = wide.pow(2).mean(-1, keepdim=True).clamp_min(1e-6)
    return self.b(self.g * (wide / spread)) + y.softmax(-1, dtype=torch.float32)  # type: ignore[no-any-return]


def test_conversions_of_the_model_to_fp32_are_kept() -> None:
    parts = {"a": nn.Linear(WIDTH, WIDTH), "b": nn.Linear(WIDTH, WIDTH), "g": torch.ones(WIDTH)}
    graph = fixed_graph_of(randomised(Function(_upcast, **parts)).float(), tokens().float())
    cast = cast_graph(graph, "bf16", **KEEP_NOTHING)
    assert dtypes_of(cast, aten.pow.Tensor_Scalar, aten.mean.dim, aten.div.Tensor, *SOFTMAXES) == {torch.float32}
    assert dtypes_of(cast, LINEAR) == {torch.bfloat16}
    assert list(needless_casts(cast)) == []
    first, _ = nodes_of(cast, LINEAR)
    assert [user.target for user in first.users] == [CAST]
    x = tokens().float()
    assert relative_error(cast(x), graph(x)) < ROUNDING["bf16"]
    assert wrong_metadata(cast, x) == []


def test_a_conversion_that_does_nothing_in_the_graph_may_go_before_the_cast() -> None:
    parts = {"a": nn.Linear(WIDTH, WIDTH), "b": nn.Linear(WIDTH, WIDTH), "g": torch.ones(WIDTH)}
    graph = fixed_graph_of(randomised(Function(_upcast, **parts)).float(), tokens().float())
    cast = cast_graph(run(graph, RemoveIdentities())[0], "bf16", **KEEP_NOTHING)
    assert dtypes_of(cast, aten.pow.Tensor_Scalar) == {torch.bfloat16}


def test_a_value_is_not_brought_to_fp32_and_back() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        return self.b(self.a(x).to(torch.float32))  # type: ignore[no-any-return]

    parts = {"a": nn.Linear(WIDTH, WIDTH), "b": nn.Linear(WIDTH, WIDTH)}
    cast = cast_graph(fixed_graph_of(randomised(Function(forward, **parts)).float(), tokens().float()), "fp16")
    first, second = nodes_of(cast, LINEAR)
    assert second.args[0] is first


# ---------------------------------------------------------------------------------------------- what else is found


def _found(forward: Callable[..., Tensor], *inputs: Tensor, wide: tuple[str, ...] = (), **keep: bool) -> Islands:
    graph = drawn(forward, *inputs)
    return find_islands(graph, torch.float16, **{**KEEP_NOTHING, **keep}, wide=wide)


X = tokens().float()


def test_what_has_been_seen_beyond_the_range_stays_and_an_input_does_not() -> None:
    weight = nn.Parameter(torch.eye(X.shape[2]))
    found = _found(lambda x: (x @ weight).exp() @ weight, X, wide=("x_1", "exp", "nothing"))
    reasons = {node.name: why for node, why in found.reasons.items()}
    assert reasons == {"exp": "holds or reads what is beyond the range of float16"}


def test_complex_numbers_and_what_is_made_of_them_are_refused() -> None:
    found = _found(lambda x: torch.fft.fft(x).mul(2.0).real.sin(), X)
    names = [node.name for node in found.refused]
    assert "sin" not in names
    assert "fft_fft" in names
    assert all(found.reasons[node].endswith("has no form in half precision") for node in found.refused)


def test_masks_are_what_is_added_to_scores_and_not_computed_by_the_network() -> None:
    def forward(x: Tensor, mask: Tensor) -> Tensor:
        scores = x @ x.mT
        return (scores * 0.5 + (1.0 - mask) * -1e4).softmax(-1) @ x

    graph = drawn(forward, X, torch.ones(3, 1, X.shape[1]))
    found = find_islands(graph, torch.float16, **KEEP_NOTHING)
    assert inputs_of(graph)[1] in found.masks
    assert inputs_of(graph)[0] not in found.masks
    assert all("matmul" not in node.name for node in found.masks)


def test_the_mask_of_an_attention_is_one_whether_it_is_given_by_place_or_by_name() -> None:
    mask = torch.zeros(X.shape[1], X.shape[1])
    for attended in (
        lambda x, m: aten.scaled_dot_product_attention.default(x, x, x, m),
        lambda x, m: aten.scaled_dot_product_attention.default(x, x, x, attn_mask=m),
    ):
        graph = drawn(attended, X, mask)
        assert find_islands(graph, torch.float16, **KEEP_NOTHING).masks == {inputs_of(graph)[1]}


def test_a_value_that_a_half_operator_reads_too_is_no_gap_and_a_view_is_one() -> None:
    weight = nn.Parameter(torch.eye(X.shape[2]))

    def forward(x: Tensor) -> Tensor:
        y = (x @ weight).softmax(-1)
        left, right = y.flatten(1), y.mul(2.0)
        return left.softmax(-1).sum() + (right @ weight).sum() + right.softmax(-1).sum() + left.mean()

    reasons = {node.name: why for node, why in _found(forward, X, softmax=True).reasons.items()}
    assert reasons["flatten"] == "lies between values that stay"
    assert "mul" not in reasons
