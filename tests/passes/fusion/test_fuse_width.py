"""Width fusion: a level of equal terms becomes one wide term with the same numbers and the operators of one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, fx, nn

from passes.fusion.fuse_width import FuseWidth
from passes.graph.editing import finish
from passes.graph.measures import critical_gemms, operator_counts, parameter_count
from passes.plan import Plan, StackPlan, grouped
from passes.runner import PassRecord
from passes.schedule.apply_plan import ApplyPlan, rewrite
from passes.schedule.out_projection import add_branch, level_features, plain_norm
from tests.passes.models import (
    EXACT,
    TOKENS,
    WIDTH,
    Attention,
    Convolution,
    GatedMlp,
    LayerScale,
    Levels,
    Mlp,
    Residual,
    fixed_graph_of,
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
    written_out_gelu,
    wrong_metadata,
)
from tests.passes.schedules import stack_plans
from tests.sampled import sampled


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
    "mlp with a gelu written out": Case(lambda: Mlp(activation=written_out_gelu)),
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


@functools.cache
def _captured(name: str, count: int = 3) -> fx.GraphModule:
    case = CASES[name]
    capture = graph_of if count == 3 else fixed_graph_of
    return capture(randomised(Residual([case.term() for _ in range(count)])), tokens(), *case.sides)


@functools.cache
def _fused(name: str) -> tuple[fx.GraphModule, fx.GraphModule, PassRecord]:
    """A term alone and two side by side, the same fused, and what the pass said."""
    parallel = scheduled(_captured(name), 3, [[[term] for term in group] for group in GROUPS])
    return parallel, *run(parallel, FuseWidth(), tokens(), *CASES[name].sides)


@pytest.mark.parametrize("name", sampled([*CASES], 4))
def test_fused_levels_have_the_numbers_of_the_levels_at_every_batch(name: str) -> None:
    parallel, fused, record = _fused(name)
    assert record.skipped == ()
    assert len(record.matches) == 1
    for batch in (1, 3, 7):
        inputs = (tokens(batch), *CASES[name].sides)
        assert relative_error(fused(*inputs), parallel(*inputs)) < EXACT
        assert wrong_metadata(fused, *inputs) == []


@pytest.mark.parametrize("name", sampled([*CASES], 4))
def test_fused_levels_run_the_operators_of_a_serial_model_with_one_term_for_each_level(name: str) -> None:
    _, fused, _ = _fused(name)
    shallow = _captured(name, len(GROUPS))
    assert wide_operators(fused) == wide_operators(shallow)
    assert critical_gemms(fused) == critical_gemms(shallow)


@pytest.mark.parametrize("name", sampled([*CASES], 4))
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


@settings(max_examples=5, deadline=None)
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


# ------------------------------------------------------------------------------------------------------- other models


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
