"""Out-projections: the outer coefficients that a refit may change, and how a change is written into the graph."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from parallelize.models.capture import capture
from parallelize.models.clean import clean
from passes.graph.editing import finish
from passes.graph.operators import aten
from passes.graph.parameters import read_parameter
from passes.plan import Level, Plan, StackPlan
from passes.runner import Skip
from passes.schedule.apply_plan import rewrite
from passes.schedule.out_projection import change_out_projection, level_features
from tests.passes.models import (
    TOKENS,
    WIDTH,
    Attention,
    Function,
    GatedMlp,
    Mlp,
    Residual,
    fixed_graph_of,
    mlps,
    normal,
    randomised,
    relative_error,
    tokens,
    vision,
    wrong_metadata,
)
from tests.passes.schedule.levels import beside, change_all, reasons_of, rewritten_levels, weights_of


def test_every_chain_of_one_term_has_an_out_projection_that_may_change() -> None:
    _, levels = rewritten_levels(vision()[1], 8, [[[0], [2], [3]]])
    features = level_features(levels[0])
    assert weights_of(features.outs) == [
        "blocks.0.attention.out.weight",
        "blocks.1.attention.out.weight",
        "blocks.1.down.weight",
    ]
    assert features.skipped == ()


def test_of_a_chain_only_the_last_term_may_change_and_the_others_get_branches_apart() -> None:
    _, levels = rewritten_levels(vision()[1], 8, [[[0, 1], [2, 3]], [[4]], [[5]]])
    outs = level_features(levels[0]).outs
    assert {weight: out.apart for weight, out in zip(weights_of(outs), outs, strict=True)} == {
        "blocks.0.attention.out.weight": True,
        "blocks.0.down.weight": False,
        "blocks.1.attention.out.weight": True,
        "blocks.1.down.weight": False,
    }
    assert weights_of(level_features(levels[1]).outs) == ["blocks.2.attention.out.weight"]


def test_a_chain_alone_on_its_level_has_branches_apart_for_all_but_its_last_term() -> None:
    _, levels = rewritten_levels(vision()[1], 8, [[[0, 1, 2]], [[3, 4]]])
    assert [out.apart for out in level_features(levels[0]).outs] == [True, True, False]
    assert [out.apart for out in level_features(levels[1]).outs] == [True, False]
    assert weights_of(level_features(levels[1]).outs)[-1] == "blocks.2.attention.out.weight"


# ------------------------------------------------------------------------------------------------------------- gains


class Gain(nn.Module):
    """A stored factor of any shape times an MLP."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.term = Mlp()
        self.gain = nn.Parameter(torch.empty(shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * self.term(x)


@pytest.mark.parametrize("shape", [(), (1,), (WIDTH,), (1, 1, WIDTH)])
def test_a_gain_is_folded_and_the_change_is_of_what_the_term_adds(shape: tuple[int, ...]) -> None:
    model, module, site = beside([Gain(*shape), Mlp()])
    first, second = model.terms
    change, other = change_all(module, site)
    finished = finish(module)
    x = tokens(7)
    with torch.no_grad():
        hidden = [F.gelu(mlp.up(mlp.norm(x))) for mlp in (first.term, second)]  # type: ignore[operator, union-attr]
        expected = x + first(x) + second(x) + hidden[0] @ change.T + hidden[1] @ other.T
    assert relative_error(finished(x), expected) < 1e-12
    assert wrong_metadata(finished, x) == []
    assert finished.graph.find_nodes(op="call_function", target=aten.mul.Tensor) == []


@pytest.mark.parametrize(
    "combine",
    [
        pytest.param(lambda x, f: x + -f, id="sign"),
        pytest.param(lambda x, f: x + 0.5 * f, id="number"),
        pytest.param(lambda x, f: x + -(f / 4), id="quotient"),
        pytest.param(lambda x, f: 0.9 * x + f, id="multiple of the state"),
        pytest.param(lambda x, f: torch.lerp(x, f, 0.3), id="interpolation"),
    ],
)
def test_an_out_projection_is_found_behind_signs_and_numbers(combine: Callable[[Tensor, Tensor], Tensor]) -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for name in "ab":
            x = combine(x, getattr(self, name)(x))
        return x

    model = randomised(Function(forward, a=Mlp(), b=Mlp()))
    program, _ = clean(capture(model, (tokens(),)), [tokens()])
    module, levels = rewritten_levels(program.module, 2, [[[0], [1]]])
    assert level_features(levels[0]).skipped == ()
    changes = change_all(module, levels[0])
    x = tokens(7)
    with torch.no_grad():
        terms = [model.a, model.b]
        hidden = [F.gelu(mlp.up(mlp.norm(x))) for mlp in terms]
        added = [combine(x, mlp(x)) - x for mlp in terms]
        expected = x + sum(added) + sum(h @ change.T for h, change in zip(hidden, changes, strict=True))
    assert relative_error(finish(module)(x), expected) < 1e-12


@pytest.mark.parametrize("shape", [(TOKENS, 1), (TOKENS, WIDTH)])
def test_a_gain_that_differs_between_positions_is_none(shape: tuple[int, ...]) -> None:
    _, _, site = beside([Gain(*shape), Mlp()])
    features = level_features(site)
    assert len(features.outs) == 1
    assert features.skipped == (
        Skip("mul", "mul is aten.mul.Tensor and not a linear layer or convolution with stored weights"),
    )


def test_a_term_that_ends_in_a_product_of_two_activations_is_skipped_with_its_operator() -> None:
    def term() -> nn.Module:
        return Function(lambda self, x: self.mlp(x) * torch.sigmoid(x), mlp=Mlp())

    _, _, site = beside([term(), term()])
    assert reasons_of(site) == [
        f"{name} is aten.mul.Tensor and not a linear layer or convolution with stored weights"
        for name in ("mul", "mul_1")
    ]


# ------------------------------------------------------------------------------------------- other kinds of terms


def test_an_attention_and_an_mlp_that_are_one_term_have_an_out_projection_each() -> None:
    def both(self: nn.Module, x: Tensor) -> Tensor:
        y: Tensor = self.attention(x) + self.mlp(x)  # type: ignore[operator]
        return y

    terms = [Function(both, attention=Attention("chunk"), mlp=Mlp()) for _ in range(2)]
    model, module, site = beside(terms)
    features = level_features(site)
    assert weights_of(features.outs) == [
        f"terms.{term}.{part}.weight" for term in (0, 1) for part in ("attention.out", "mlp.down")
    ]
    assert features.skipped == ()
    change = normal(WIDTH, 12, seed=3)
    change_out_projection(module, features.outs[1], change)
    x = tokens()
    with torch.no_grad():
        mlp = model.terms[0].mlp
        hidden = F.gelu(mlp.up(mlp.norm(x)))  # type: ignore[operator, union-attr]
        expected = x + model.terms[0](x) + model.terms[1](x) + hidden @ change.T
    assert relative_error(finish(module)(x), expected) < 1e-12


def test_a_gated_mlp_has_the_gated_activations_as_features() -> None:
    model, module, site = beside([GatedMlp(), GatedMlp()])
    changes = change_all(module, site)
    x = tokens()
    with torch.no_grad():
        added = torch.zeros_like(x)
        for term, change in zip(model.terms, changes, strict=True):
            gate, value = term.up(term.norm(x)).chunk(2, -1)  # type: ignore[operator]
            added += (F.silu(gate) * value) @ change.T
        expected = x + model.terms[0](x) + model.terms[1](x) + added
    assert relative_error(finish(module)(x), expected) < 1e-12


def _sum_of(function: Callable[[Tensor], Tensor]) -> list[str]:
    """Reasons of terms that add up an MLP's output in some way."""
    terms = [Function(lambda self, x: function(self.mlp(x)), mlp=Mlp()) for _ in range(2)]
    _, _, site = beside(terms)
    assert level_features(site).outs == ()
    return reasons_of(site)


def test_a_linear_that_a_nonlinear_function_reads_too_is_skipped() -> None:
    reasons = _sum_of(lambda y: y + torch.tanh(y))
    assert "linear_1 is read more than once" in reasons
    assert "tanh is aten.tanh.default and not a linear layer or convolution with stored weights" in reasons


def test_a_linear_that_is_added_to_itself_is_skipped() -> None:
    assert _sum_of(lambda y: y + y) == ["linear_1 is read more than once", "linear_3 is read more than once"]


def test_a_sum_with_a_factor_is_skipped() -> None:
    reasons = _sum_of(lambda y: torch.add(torch.tanh(y), y, alpha=2))
    assert reasons[0] == "add is aten.add.Tensor and not a linear layer or convolution with stored weights"


def test_a_linear_of_the_mean_of_all_positions_is_skipped() -> None:
    def pooled(self: nn.Module, x: Tensor) -> Tensor:
        y: Tensor = self.mlp(x) + self.pool(x.mean(1, keepdim=True))  # type: ignore[operator]
        return y

    _, _, site = beside([Function(pooled, mlp=Mlp(), pool=nn.Linear(WIDTH, WIDTH)) for _ in range(2)])
    assert weights_of(level_features(site).outs) == ["terms.0.mlp.down.weight", "terms.1.mlp.down.weight"]
    assert reasons_of(site) == [f"{name} does not lie as the state does" for name in ("linear_2", "linear_5")]


def test_a_linear_with_computed_weights_is_skipped() -> None:
    def computed(self: nn.Module, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(x), self.weight * x.mean())  # type: ignore[operator]

    _, _, site = beside([Function(computed, weight=torch.empty(WIDTH, WIDTH)) for _ in range(2)])
    assert reasons_of(site) == [f"the weights of {name} are computed and not stored" for name in ("linear", "linear_1")]


def test_attention_without_a_stored_out_projection_is_skipped() -> None:
    class Bare(Attention):
        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            return torch.tanh(super().forward(x, mask))

    graph = fixed_graph_of(randomised(Residual([Bare("chunk"), Bare("chunk")])), tokens())
    _, levels = rewritten_levels(graph, 2, [[[0], [1]]])
    assert [skip.node for skip in level_features(levels[0]).skipped] == ["tanh", "tanh_1"]
    assert aten.tanh.default in [node.target for node in levels[0].contributions]


# --------------------------------------------------------------------------------------------------- norms after adds


def _post_norm() -> tuple[Residual, fx.GraphModule]:
    model = Residual([Mlp(nn.Identity()) for _ in range(4)], [nn.LayerNorm(WIDTH) for _ in range(4)])
    randomised(model)
    return model, fixed_graph_of(model, tokens())


def test_terms_with_norms_of_their_own_get_branches_apart() -> None:
    _, levels = rewritten_levels(_post_norm()[1], 4, [[[0], [1]], [[2]], [[3]]])
    assert [[out.apart for out in level_features(level).outs] for level in levels] == [[True, True], [False], [False]]
    assert level_features(levels[0]).skipped == ()


def test_terms_under_a_shared_norm_have_out_projections_that_may_change() -> None:
    model, graph = _post_norm()
    plan = Plan((StackPlan(4, (Level(((0,), (1,), (2,), (3,)), shared=True),)),))
    module, (site,) = rewrite(graph, plan)
    assert [out.apart for out in level_features(site.levels[0]).outs] == [False] * 4
    changes = change_all(module, site.levels[0])
    x = tokens()
    with torch.no_grad():
        hidden = [F.gelu(term.up(x)) for term in model.terms]  # type: ignore[operator]
        added = sum(h @ change.T for h, change in zip(hidden, changes, strict=True))
        expected = model.posts[3](x + sum(term(x) for term in model.terms) + added)
    assert relative_error(finish(module)(x), expected) < 1e-12


# ---------------------------------------------------------------------------------------------------- changed weights


def test_a_change_of_an_out_projection_is_added_to_its_weight() -> None:
    model, graph = mlps(2)
    module, levels = rewritten_levels(graph, 2, [[[0], [1]]])
    change = normal(WIDTH, 12, seed=3)
    out = level_features(levels[0]).outs[1]
    change_out_projection(module, out, change)
    finished = finish(module)
    with torch.no_grad():
        first, second = model.terms
        hidden = F.gelu(second.up(second.norm(tokens())))  # type: ignore[operator]
        expected = tokens() + first(tokens()) + second(tokens()) + hidden @ change.T
    assert relative_error(finished(tokens()), expected) < 1e-12
    assert wrong_metadata(finished, tokens()) == []


def test_whoever_shares_a_changed_weight_keeps_the_old_one() -> None:
    term = Mlp()
    graph = fixed_graph_of(randomised(Residual([term, term])), tokens())
    module, levels = rewritten_levels(graph, 2, [[[0], [1]]])
    first, second = level_features(levels[0]).outs
    before = read_parameter(module, second.node.args[1]).clone()  # type: ignore[arg-type]
    change_out_projection(module, first, torch.ones(WIDTH, 12, dtype=torch.float64))
    assert torch.equal(read_parameter(module, second.node.args[1]), before)  # type: ignore[arg-type]
    assert torch.equal(read_parameter(module, first.node.args[1]), before + 1)  # type: ignore[arg-type]
    assert torch.equal(term.down.weight, before)


def test_a_change_keeps_the_dtype_of_the_weight() -> None:
    graph = fixed_graph_of(randomised(Residual([Mlp(), Mlp()])).float(), tokens().float())
    module, levels = rewritten_levels(graph, 2, [[[0], [1]]])
    (out, _) = level_features(levels[0]).outs
    change_out_projection(module, out, normal(WIDTH, 12))
    assert read_parameter(module, out.node.args[1]).dtype == torch.float32  # type: ignore[arg-type]
