"""Width fusion: a level of equal terms becomes one wide term with the same numbers and the operators of one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.clean.remove_identities import RemoveIdentities
from passes.fusion.fuse_width import FuseWidth
from passes.graph.editing import finish
from passes.graph.measures import critical_gemms, operator_counts, parameter_count
from passes.graph.operators import gemms
from passes.plan import Plan, StackPlan, grouped
from passes.runner import PassRecord
from passes.schedule.apply_plan import ApplyPlan, rewrite
from passes.schedule.out_projection import add_branch, level_features, plain_norm
from tests.passes.models import (
    HEADS,
    HIDDEN,
    TOKENS,
    WIDTH,
    Attention,
    Convolution,
    Function,
    GatedMlp,
    LayerScale,
    Levels,
    Mlp,
    Residual,
    graph_of,
    images,
    mlps,
    normal,
    plan_of,
    randomised,
    relative_error,
    run,
    scheduled,
    text,
    tokens,
    vision,
    wide_operators,
    wrong_metadata,
)
from tests.passes.schedules import stack_plans
from tests.sampled import sampled

EXACT = 1e-10


@dataclass(frozen=True)
class Case:
    """A kind of term and the model's inputs beside the state."""

    term: Callable[[], nn.Module]
    sides: tuple[Tensor, ...] = ()


CAUSAL = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()
CASES = {
    "mlp": Case(Mlp),
    "mlp without biases": Case(lambda: Mlp(bias=False)),
    "mlp without norm": Case(lambda: Mlp(nn.Identity())),
    "mlp behind a norm without gain": Case(lambda: Mlp(nn.LayerNorm(WIDTH, elementwise_affine=False))),
    "mlp behind a norm without shift": Case(lambda: Mlp(nn.LayerNorm(WIDTH, bias=False))),
    "mlp behind an rms norm": Case(lambda: Mlp(nn.RMSNorm(WIDTH))),
    "mlp with a gelu written out": Case(lambda: Mlp(activation=written_out)),
    "gated mlp": Case(GatedMlp),
    "mlp with layer scale": Case(lambda: LayerScale(Mlp())),
    "linear": Case(lambda: nn.Linear(WIDTH, WIDTH)),
    "attention, unbind": Case(lambda: Attention("unbind")),
    "attention, chunk": Case(lambda: Attention("chunk")),
    "attention, split": Case(lambda: Attention("split")),
    "attention, heads outside": Case(lambda: Attention("heads outside")),
    "attention, separate": Case(lambda: Attention("separate")),
    "attention, four heads": Case(lambda: Attention("unbind", heads=4)),
    "attention with a mask": Case(lambda: Attention("chunk"), (CAUSAL,)),
    "grouped-query attention": Case(lambda: Attention("separate", kv_heads=2, heads=4)),
}
GROUPS = ((0,), (1, 2))


def written_out(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(0.7978845608028654 * (x + 0.044715 * torch.pow(x, 3.0))))


@functools.cache
def _captured(name: str, count: int = 3) -> fx.GraphModule:
    case = CASES[name]
    return graph_of(randomised(Residual([case.term() for _ in range(count)])), tokens(), *case.sides)


@functools.cache
def _fused(name: str) -> tuple[fx.GraphModule, fx.GraphModule, PassRecord]:
    """A term alone and two side by side, the same fused, and what the pass said."""
    parallel = scheduled(_captured(name), 3, [[[term] for term in group] for group in GROUPS])
    return parallel, *run(parallel, FuseWidth(), tokens(), *CASES[name].sides)


@pytest.mark.parametrize("name", CASES)
def test_fused_levels_have_the_numbers_of_the_levels_at_every_batch(name: str) -> None:
    parallel, fused, record = _fused(name)
    assert record.skipped == ()
    assert len(record.matches) == 1
    for batch in (1, 3, 7):
        inputs = (tokens(batch), *CASES[name].sides)
        assert relative_error(fused(*inputs), parallel(*inputs)) < EXACT
        assert wrong_metadata(fused, *inputs) == []


@pytest.mark.parametrize("name", CASES)
def test_fused_levels_run_the_operators_of_a_serial_model_with_one_term_for_each_level(name: str) -> None:
    _, fused, _ = _fused(name)
    shallow = _captured(name, len(GROUPS))
    assert wide_operators(fused) == wide_operators(shallow)
    assert critical_gemms(fused) == critical_gemms(shallow)


@pytest.mark.parametrize("name", CASES)
def test_a_second_run_matches_nothing_and_leaves_the_graph_as_it_is(name: str) -> None:
    _, fused, _ = _fused(name)
    again, record = run(fused, FuseWidth())
    assert record.matches == ()
    assert record.skipped == ()
    assert text(again) == text(fused)


def test_a_serial_network_has_nothing_to_fuse() -> None:
    _, graph = vision()
    same, record = run(graph, FuseWidth(), images())
    assert record.matches == record.skipped == ()
    assert text(same) == text(graph)


def test_a_match_names_the_sum_and_what_was_fused_in_it() -> None:
    _, record = run(scheduled(mlps(4)[1], 4, [[[0], [1]], [[2], [3]]]), FuseWidth())
    assert record.matches == ("add_tensor_1: 2 x linear_1", "add_tensor_3: 2 x linear_5")


def test_the_parameters_of_a_fused_network_are_wide_ones_and_no_more_than_before() -> None:
    parallel = scheduled(mlps(4)[1], 4, [[[0], [1], [2], [3]]])
    fused, _ = run(parallel, FuseWidth())
    names = [name for name, _ in fused.named_parameters()]
    assert sorted(names) == ["wide_bias_0", "wide_bias_1", "wide_weight_0", "wide_weight_1"]
    norms, summed_biases = 4 * 2 * WIDTH, 3 * WIDTH
    assert parameter_count(fused) == parameter_count(parallel) - norms - summed_biases


def test_the_graph_that_was_fused_is_not_changed() -> None:
    parallel, *_ = _fused("mlp")
    before, expected = text(parallel), parallel(tokens())
    run(parallel, FuseWidth())
    assert text(parallel) == before
    assert torch.equal(parallel(tokens()), expected)


@settings(max_examples=10, deadline=None)
@given(stack_plans(terms=5))
def test_any_schedule_keeps_its_numbers_and_its_levels_of_single_terms_become_one_branch(plan: StackPlan) -> None:
    parallel, _ = run(mlps(5)[1], ApplyPlan(Plan((plan,))))
    fused, _ = run(parallel, FuseWidth(), tokens())
    assert relative_error(fused(tokens()), parallel(tokens())) < EXACT
    assert wrong_metadata(fused, tokens()) == []
    assert run(fused, FuseWidth())[1].matches == ()
    levels = [[len(chain) for chain in level.chains] for level in plan.levels]
    kept = sum(sum(length for length in level if length > 1) + (1 in level) for level in levels)
    assert wide_operators(fused)["norm"] <= kept


# ------------------------------------------------------------------------------------ branches of unequal structure

VISION_LEVELS: dict[str, tuple[Levels, dict[str, int]]] = {
    "pairs of blocks": ([[[0], [2]], [[1], [3]], [[4], [6]], [[5], [7]]], {"linear": 9, "attention": 2, "norm": 5}),
    "unequal groups": ([[[0]], [[1]], [[2], [4], [6]], [[3], [5], [7]]], {"linear": 9, "attention": 2, "norm": 5}),
    "attention beside mlp": (
        [[[0], [1]], [[2], [3]], [[4], [5]], [[6], [7]]],
        {"linear": 13, "attention": 4, "norm": 5},
    ),
    "two blocks on one level": ([[[0], [1], [2], [3]], [[4], [5], [6], [7]]], {"linear": 7, "attention": 2, "norm": 3}),
    "a run of mlps": ([[[0]], [[1], [3], [5], [7]]], {"linear": 5, "attention": 1, "norm": 3}),
}


@pytest.mark.parametrize(("levels", "counts"), VISION_LEVELS.values(), ids=VISION_LEVELS.keys())
def test_each_level_has_one_norm_at_most_one_attention_and_one_out_projection(
    levels: Levels, counts: dict[str, int]
) -> None:
    parallel = scheduled(vision()[1], 8, levels)
    fused, record = run(parallel, FuseWidth(), images())
    assert record.skipped == ()
    assert wide_operators(fused) == counts
    for batch in (1, 3, 7):
        assert relative_error(fused(images(batch)), parallel(images(batch))) < EXACT
        assert wrong_metadata(fused, images(batch)) == []
    again, second = run(fused, FuseWidth())
    assert second.matches == ()
    assert text(again) == text(fused)


def test_pairs_of_blocks_run_the_operators_of_a_model_of_half_the_depth() -> None:
    fused, _ = run(scheduled(vision()[1], 8, VISION_LEVELS["pairs of blocks"][0]), FuseWidth())
    shallow = vision(depth=2)[1]
    assert wide_operators(fused) == wide_operators(shallow)
    assert critical_gemms(fused) == critical_gemms(shallow)
    counts, expected = operator_counts(fused), operator_counts(shallow)
    assert counts["aten.gelu.default"] == expected["aten.gelu.default"]
    assert counts["aten.add.Tensor"] == expected["aten.add.Tensor"]


def test_terms_of_two_widths_share_the_norm_and_the_out_projection_and_not_the_in_projection() -> None:
    model = Residual([Mlp(), Mlp(hidden=20), Mlp(), Mlp(hidden=20)])
    parallel = scheduled(graph_of(randomised(model), tokens()), 4, [[[0], [1], [2], [3]]])
    fused, record = run(parallel, FuseWidth(), tokens())
    assert record.matches == ("add_tensor_3: 2 x linear_1, 2 x linear_3",)
    assert wide_operators(fused) == {"linear": 3, "attention": 0, "norm": 1}


def test_norms_with_another_epsilon_are_not_shared() -> None:
    model = Residual([Mlp(), Mlp(nn.LayerNorm(WIDTH, eps=0.5))])
    parallel = scheduled(graph_of(randomised(model), tokens()), 2, [[[0], [1]]])
    fused, _ = run(parallel, FuseWidth(), tokens())
    assert wide_operators(fused)["norm"] == 2


# --------------------------------------------------------------------------------------- the affine branch of a refit


def _with_affine_branches(graph: fx.GraphModule, plan: Plan, width: int) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The graph by the plan without and with A norm(x) + c on each level."""
    bare, _ = rewrite(graph, plan)
    module, (site,) = rewrite(graph, plan)
    state = site.levels[0].entry
    for number, level in enumerate(site.levels):
        features = level_features(replace(level, entry=state))
        source = state if features.source is state else plain_norm(module, features.source)
        weight, bias = normal(width, width, seed=2 * number) * width**-0.5, normal(width, seed=2 * number + 1)
        state = add_branch(module, level.sum, source, weight, bias, features.axis)
    return bare, finish(module)


@pytest.mark.parametrize(
    "form", [grouped(8, [[(0, 1), (2, 3)], [(4, 5), (6, 7)]]), grouped(8, [[(0, 1)], [(2, 3), (4, 5), (6, 7)]])]
)
def test_the_affine_branch_of_a_refit_costs_no_operator_in_a_fused_level(form: StackPlan) -> None:
    bare, refitted = _with_affine_branches(vision()[1], Plan((form,)), 16)
    fused, record = run(refitted, FuseWidth(), images())
    assert record.skipped == ()
    assert wide_operators(fused) == wide_operators(vision(depth=2)[1])
    assert relative_error(fused(images(7)), refitted(images(7))) < EXACT
    assert relative_error(refitted(images()), bare(images())) > 1e-3
    assert wrong_metadata(fused, images()) == []
    assert run(fused, FuseWidth())[1].matches == ()


@pytest.mark.parametrize(
    "name", ["mlp", "mlp behind an rms norm", "mlp without norm", "gated mlp", "attention, unbind"]
)
def test_the_affine_branch_joins_every_kind_of_term(name: str) -> None:
    _, refitted = _with_affine_branches(_captured(name), plan_of(3, [[[0]], [[1], [2]]]), WIDTH)
    fused, _ = run(refitted, FuseWidth(), tokens())
    assert wide_operators(fused) == wide_operators(_captured(name, 2))


# ------------------------------------------------------------------------------------------------------ other models


def _encoder(*, batch_first: bool, norm_first: bool = True) -> fx.GraphModule:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 12, batch_first=batch_first, norm_first=norm_first)
    graph = graph_of(randomised(nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)), tokens())
    return run(graph, RemoveIdentities())[0]


@pytest.mark.parametrize("batch_first", sampled([True, False], 2))
def test_the_encoder_of_torch_is_fused_with_its_packed_projection_and_either_order_of_dimensions(
    batch_first: bool,
) -> None:
    parallel = scheduled(_encoder(batch_first=batch_first), 8, [[[0], [2]], [[1], [3]], [[4], [6]], [[5], [7]]])
    fused, record = run(parallel, FuseWidth(), tokens())
    assert record.skipped == ()
    assert wide_operators(fused) == {"linear": 8, "attention": 2, "norm": 4}
    for batch in (1, 3, 7):
        assert relative_error(fused(tokens(batch)), parallel(tokens(batch))) < EXACT


@pytest.mark.parametrize("batch_first", sampled([True, False], 2))
def test_post_norm_branches_share_projections_and_attention_and_are_summed_behind_their_norms(
    batch_first: bool,
) -> None:
    parallel = scheduled(
        _encoder(batch_first=batch_first, norm_first=False), 8, [[[0], [2]], [[1], [3]], [[4], [6]], [[5], [7]]]
    )
    fused, record = run(parallel, FuseWidth(), tokens())
    assert record.skipped == ()
    assert len(record.matches) == 4
    assert wide_operators(fused) == {"linear": 4, "attention": 2, "norm": 4}
    assert critical_gemms(fused) == critical_gemms(parallel)
    assert sum(gemms(node) for node in fused.graph.nodes) == 12
    for batch in (1, 3, 7):
        assert relative_error(fused(tokens(batch)), parallel(tokens(batch))) < EXACT
        assert wrong_metadata(fused, tokens(batch)) == []
    assert run(fused, FuseWidth())[1].matches == ()


@pytest.mark.parametrize("batch_first", sampled([True, False], 2))
def test_pairs_of_layers_of_a_pre_norm_encoder_run_the_operators_of_half_the_depth(batch_first: bool) -> None:
    def encoder(depth: int) -> fx.GraphModule:
        layer = nn.TransformerEncoderLayer(WIDTH, 2, HIDDEN, norm_first=True, batch_first=batch_first)
        model = randomised(nn.TransformerEncoder(layer, depth, enable_nested_tensor=False))
        return run(graph_of(model, tokens()), RemoveIdentities())[0]

    parallel = scheduled(encoder(2), 4, [[[0], [2]], [[1], [3]]])
    fused, record = run(parallel, FuseWidth(), tokens())
    assert record.skipped == ()
    assert wide_operators(fused) == wide_operators(encoder(1))
    for batch in (1, 7):
        assert relative_error(fused(tokens(batch)), parallel(tokens(batch))) < EXACT
        assert wrong_metadata(fused, tokens(batch)) == []


BLOCK_LEVELS: dict[str, tuple[int, Levels]] = {
    "pairs": (4, [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]),
    "one level": (4, [[[0, 1], [2, 3], [4, 5], [6, 7]]]),
    "chains of two blocks": (4, [[[0, 1, 2, 3], [4, 5, 6, 7]]]),
    "two chains beside a block": (3, [[[0, 1], [2, 3]], [[4]], [[5]]]),
}


@pytest.mark.parametrize(
    ("depth", "levels"),
    [
        pytest.param(*levels, id=name, marks=() if name == "two chains beside a block" else pytest.mark.slow)
        for name, levels in BLOCK_LEVELS.items()
    ],
)
@pytest.mark.parametrize("norm_first", sampled([True, False], 2))
def test_chains_of_terms_are_batched_where_their_states_are_private(
    depth: int, levels: Levels, norm_first: bool
) -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, norm_first=norm_first, batch_first=True)
    model = randomised(nn.TransformerEncoder(layer, depth, enable_nested_tensor=False))
    graph = run(graph_of(model, tokens()), RemoveIdentities())[0]
    parallel = scheduled(graph, 2 * depth, levels)
    fused, record = run(parallel, FuseWidth(), tokens())
    assert record.skipped == ()
    assert wide_operators(fused)["attention"] < wide_operators(parallel)["attention"]
    assert critical_gemms(fused) == critical_gemms(parallel)
    for batch in (1, 3, 7):
        assert relative_error(fused(tokens(batch)), parallel(tokens(batch))) < EXACT
        assert wrong_metadata(fused, tokens(batch)) == []
    again, second = run(fused, FuseWidth())
    assert second.matches == ()
    assert text(again) == text(fused)


def test_a_level_of_equal_blocks_has_the_products_of_one_block() -> None:
    def products(graph: fx.GraphModule) -> int:
        return sum(gemms(node) for node in graph.graph.nodes)

    parallel = scheduled(vision()[1], 8, BLOCK_LEVELS["pairs"][1])
    fused, _ = run(parallel, FuseWidth(), images())
    assert products(fused) == products(vision(depth=2)[1])
    assert relative_error(fused(images(7)), parallel(images(7))) < EXACT


def test_branches_that_end_in_no_product_are_summed_at_the_end() -> None:
    class Squared(Mlp):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).square()

    model = Residual([Mlp(), Squared(), Mlp(), Squared()])
    parallel = scheduled(graph_of(randomised(model), tokens()), 4, [[[0], [1], [2], [3]]])
    fused, record = run(parallel, FuseWidth(), tokens())
    assert record.skipped == ()
    assert record.matches == ("add_tensor_3: 2 x linear_1, 2 x square",)
    assert wide_operators(fused) == {"linear": 3, "attention": 0, "norm": 1}
    assert relative_error(fused(tokens(7)), parallel(tokens(7))) < EXACT


def test_what_cannot_be_fused_stays_and_the_rest_of_the_sum_is_fused() -> None:
    class Rare(Mlp):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(super().forward(x), 0.5, training=True)

    model = Residual([Mlp(), Rare(), Mlp(), Rare()])
    parallel = scheduled(graph_of(randomised(model), tokens()), 4, [[[0], [1], [2], [3]]])
    fused, record = run(parallel, FuseWidth())
    assert record.matches == ("add_tensor_3: 2 x linear_1",)
    assert {(skip.node, skip.reason) for skip in record.skipped} == {
        (name, "dropout (aten.dropout.default) draws random values, which the branches must not share")
        for name in ("dropout", "dropout_1")
    }
    assert wide_operators(fused) == {"linear": 6, "attention": 0, "norm": 3}
    again, _ = run(fused, FuseWidth())
    assert text(again) == text(fused)


def test_terms_of_another_structure_say_where_they_differ() -> None:
    model = Residual([Mlp(), Mlp(activation=torch.relu, norm=nn.Identity())])
    parallel = scheduled(graph_of(randomised(model), tokens()), 2, [[[0], [1]]])
    _, record = run(parallel, FuseWidth(), tokens())
    assert record.matches == ("add_tensor_1: 1 x linear_1, 1 x linear_3",)  # they share the out-projection

    posts = [nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)]
    model = Residual([Mlp(), Mlp(hidden=20)], posts)
    parallel = scheduled(graph_of(randomised(model), tokens()), 2, [[[0], [1]]])
    fused, record = run(parallel, FuseWidth(), tokens())
    rows = (12, 20)
    assert record.matches == ()
    assert [skip.reason for skip in record.skipped] == [
        f"{names[0]} is not computed as {names[1]} is: terms.{a}.up.weight is [{rows[a]}, 8] float64,"
        f" terms.{b}.up.weight is [{rows[b]}, 8] float64"
        for names, a, b in ((("layer_norm_1", "layer_norm_3"), 0, 1), (("layer_norm_3", "layer_norm_1"), 1, 0))
    ]
    assert text(fused) == text(parallel)


def pictures(batch: int = 2) -> Tensor:
    return normal(batch, WIDTH, 6, 6)


@pytest.mark.parametrize("posts", [[], [nn.ReLU() for _ in range(4)]], ids=["plain", "post-activation"])
@pytest.mark.parametrize("levels", [[[[0], [1]], [[2], [3]]], [[[0, 1], [2, 3]]]], ids=["sublayer", "block"])
def test_convolutions_get_the_channels_of_all_branches(posts: list[nn.Module], levels: Levels) -> None:
    model = randomised(Residual([Convolution() for _ in range(4)], posts))
    parallel = scheduled(graph_of(model, pictures()), 4, levels)
    fused, record = run(parallel, FuseWidth(), pictures())
    assert record.skipped == ()
    assert operator_counts(fused)["aten.conv2d.default"] == operator_counts(parallel)["aten.conv2d.default"] // 2
    for batch in (1, 3):
        assert relative_error(fused(pictures(batch)), parallel(pictures(batch))) < EXACT
        assert wrong_metadata(fused, pictures(batch)) == []
    assert run(fused, FuseWidth())[1].matches == ()


@pytest.mark.parametrize("join", [torch.cat, torch.stack])
def test_branches_that_are_put_side_by_side_are_fused_up_to_there(join: Callable[..., Tensor]) -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        y: Tensor = join([self.a(x), self.b(x), self.c(x)], 1).sum(1)
        return y

    graph = graph_of(randomised(Function(forward, a=Mlp(), b=Mlp(), c=Mlp())), tokens())
    fused, record = run(graph, FuseWidth(), tokens())
    assert len(record.matches) == 1
    assert sum(gemms(node) for node in fused.graph.nodes) == 2
    for batch in (1, 3):
        assert relative_error(fused(tokens(batch)), graph(tokens(batch))) < EXACT
    assert run(fused, FuseWidth())[1].matches == ()


def test_branches_that_read_different_values_are_fused_with_these_stacked() -> None:
    def forward(self: Function, x: Tensor, y: Tensor) -> Tensor:
        total: Tensor = x + self.a(x) + self.b(y)
        return total

    graph = graph_of(randomised(Function(forward, a=Mlp(), b=Mlp())), tokens(), tokens(seed=5))
    fused, record = run(graph, FuseWidth(), tokens(), tokens(seed=5))
    assert len(record.matches) == 1
    assert sum(gemms(node) for node in fused.graph.nodes) == 2
    for batch in (1, 3):
        inputs = tokens(batch), tokens(batch, seed=5)
        assert relative_error(fused(*inputs), graph(*inputs)) < EXACT


def test_a_branch_whose_output_is_read_elsewhere_too_is_cut_out_of_the_wide_one() -> None:
    def forward(self: Function, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.a(x)
        return x + first + self.b(x) + self.c(x), torch.exp(first)

    model = Function(forward, a=Mlp(), b=Mlp(), c=Mlp())
    graph = graph_of(randomised(model), tokens())
    fused, record = run(graph, FuseWidth(), tokens())
    assert len(record.matches) == 1
    assert len(record.changed) == 3
    assert wide_operators(fused)["norm"] == 1
    for got, expected in zip(fused(tokens()), graph(tokens()), strict=True):
        assert relative_error(got, expected) < EXACT


def test_unlike_branches_on_a_state_that_cancels_out_are_left_with_a_reason() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        return x + (self.n(x + self.a(x)) - x) + torch.tanh(self.b(x))

    parts = {"n": nn.LayerNorm(WIDTH), "a": nn.Linear(WIDTH, WIDTH), "b": nn.Linear(WIDTH, WIDTH)}
    result = FuseWidth().apply(graph_of(randomised(Function(forward, **parts)), tokens()))
    assert (result.matches, result.changed) == ((), ())
    assert [skip.node for skip in result.skipped] == list(result.present)
    assert len(result.present) == 2


def test_a_value_that_two_branches_share_is_computed_once() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        normed = F.layer_norm(x, (WIDTH,))
        return x + self.a(normed) + self.b(normed)

    model = Function(forward, a=Mlp(nn.Identity()), b=Mlp(nn.Identity()))
    fused, record = run(graph_of(randomised(model), tokens()), FuseWidth(), tokens())
    assert len(record.matches) == 1
    assert wide_operators(fused) == {"linear": 2, "attention": 0, "norm": 1}


def test_an_output_that_another_output_is_computed_from_is_summed_before_it() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        return x + a + a * self.g + b + b * self.h

    gains = {name: normal(WIDTH, seed=number) for number, name in enumerate("gh")}
    graph = graph_of(randomised(Function(forward, a=Mlp(), b=Mlp(), **gains)), tokens())
    fused, record = run(graph, FuseWidth(), tokens())
    assert len(record.matches) == 1
    assert relative_error(fused(tokens()), graph(tokens())) < EXACT


def test_a_parallel_model_as_it_was_captured_is_fused_without_a_plan() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        return x + self.a(x) + self.b(x)

    model = Function(forward, a=Attention("unbind"), b=Mlp())
    fused, _ = run(graph_of(randomised(model), tokens()), FuseWidth(), tokens())
    assert wide_operators(fused) == {"linear": 3, "attention": 1, "norm": 1}


def test_a_model_in_single_precision_is_fused_in_double_and_stored_in_single() -> None:
    model = randomised(Residual([Mlp(), Mlp()])).float()
    parallel = scheduled(graph_of(model, tokens().float()), 2, [[[0], [1]]])
    fused, record = run(parallel, FuseWidth(), tokens().float())
    assert {parameter.dtype for parameter in fused.parameters()} == {torch.float32}
    assert relative_error(fused(tokens().float()), parallel(tokens().float())) < 1e-5
    assert record.matches


def test_shared_weights_of_repeated_layers_are_fused_too() -> None:
    term = Mlp()
    parallel = scheduled(graph_of(randomised(Residual([term, term])), tokens()), 2, [[[0], [1]]])
    fused, record = run(parallel, FuseWidth(), tokens())
    assert len(record.matches) == 1
    assert wide_operators(fused) == {"linear": 2, "attention": 0, "norm": 1}


def test_a_write_in_place_stays() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        hidden = self.a(x)
        hidden[:, 0] = 0
        y: Tensor = hidden + self.b(x)
        return y

    model = Function(forward, a=nn.Linear(WIDTH, WIDTH), b=nn.Linear(WIDTH, WIDTH))
    graph = graph_of(randomised(model), tokens())
    result, _ = run(graph, FuseWidth())
    assert relative_error(result(tokens()), graph(tokens())) < EXACT
