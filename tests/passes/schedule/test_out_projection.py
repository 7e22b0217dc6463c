"""Out-projections: the outer coefficients that a refit may change, and how a change is written into the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from parallelize.models.capture import capture
from parallelize.models.clean import clean
from passes.graph.editing import finish
from passes.graph.operators import LAYER_NORM, LINEAR, aten
from passes.graph.parameters import read_parameter
from passes.plan import Level, Plan, StackPlan
from passes.runner import Skip
from passes.schedule.apply_plan import rewrite
from passes.schedule.out_projection import OutProjection, add_branch, change_out_projection, level_features, plain_norm
from passes.schedule.sites import LevelSite
from tests.passes.models import (
    TOKENS,
    WIDTH,
    Attention,
    Function,
    GatedMlp,
    Levels,
    Mlp,
    Residual,
    after_levels,
    graph_of,
    mlps,
    normal,
    plan_of,
    randomised,
    relative_error,
    tokens,
    vision,
    wrong_metadata,
)


def _levels(graph: fx.GraphModule, terms: int, levels: Levels) -> tuple[fx.GraphModule, tuple[LevelSite, ...]]:
    module, (site,) = rewrite(graph, plan_of(terms, levels))
    return module, site.levels


def _beside(terms: Sequence[nn.Module], example: Tensor | None = None) -> tuple[Residual, fx.GraphModule, LevelSite]:
    """Terms side by side on one level."""
    model = Residual(terms)
    randomised(model)
    graph = graph_of(model, tokens() if example is None else example)
    module, levels = _levels(graph, len(terms), [[[number] for number in range(len(terms))]])
    return model, module, levels[0]


def _weights(outs: Sequence[OutProjection]) -> list[str]:
    return [str(out.node.args[1].target) for out in outs]  # type: ignore[union-attr]


def _reasons(site: LevelSite) -> list[str]:
    return [skip.reason for skip in level_features(site).skipped]


def _change_all(module: fx.GraphModule, site: LevelSite, width: int = WIDTH) -> list[Tensor]:
    """Change all out-projections of a level; returns the changes."""
    outs = level_features(site).outs
    changes = [normal(width, out.width, seed=7 + number) for number, out in enumerate(outs)]
    for out, change in zip(outs, changes, strict=True):
        change_out_projection(module, out, change)
    return changes


def test_every_chain_of_one_term_has_an_out_projection_that_may_change() -> None:
    _, levels = _levels(vision()[1], 8, [[[0], [2], [3]]])
    features = level_features(levels[0])
    assert _weights(features.outs) == [
        "blocks.0.attention.out.weight",
        "blocks.1.attention.out.weight",
        "blocks.1.down.weight",
    ]
    assert features.skipped == ()


def test_of_a_chain_only_the_last_term_may_change_and_the_others_get_branches_apart() -> None:
    _, levels = _levels(vision()[1], 8, [[[0, 1], [2, 3]], [[4]], [[5]]])
    outs = level_features(levels[0]).outs
    assert {weight: out.apart for weight, out in zip(_weights(outs), outs, strict=True)} == {
        "blocks.0.attention.out.weight": True,
        "blocks.0.down.weight": False,
        "blocks.1.attention.out.weight": True,
        "blocks.1.down.weight": False,
    }
    assert _weights(level_features(levels[1]).outs) == ["blocks.2.attention.out.weight"]


def test_a_chain_alone_on_its_level_has_branches_apart_for_all_but_its_last_term() -> None:
    _, levels = _levels(vision()[1], 8, [[[0, 1, 2]], [[3, 4]]])
    assert [out.apart for out in level_features(levels[0]).outs] == [True, True, False]
    assert [out.apart for out in level_features(levels[1]).outs] == [True, False]
    assert _weights(level_features(levels[1]).outs)[-1] == "blocks.2.attention.out.weight"


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
    model, module, site = _beside([Gain(*shape), Mlp()])
    first, second = model.terms
    change, other = _change_all(module, site)
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
    module, levels = _levels(program.module, 2, [[[0], [1]]])
    assert level_features(levels[0]).skipped == ()
    changes = _change_all(module, levels[0])
    x = tokens(7)
    with torch.no_grad():
        terms = [model.a, model.b]
        hidden = [F.gelu(mlp.up(mlp.norm(x))) for mlp in terms]
        added = [combine(x, mlp(x)) - x for mlp in terms]
        expected = x + sum(added) + sum(h @ change.T for h, change in zip(hidden, changes, strict=True))
    assert relative_error(finish(module)(x), expected) < 1e-12


@pytest.mark.parametrize("shape", [(TOKENS, 1), (TOKENS, WIDTH)])
def test_a_gain_that_differs_between_positions_is_none(shape: tuple[int, ...]) -> None:
    _, _, site = _beside([Gain(*shape), Mlp()])
    features = level_features(site)
    assert len(features.outs) == 1
    assert features.skipped == (
        Skip("mul", "mul is aten.mul.Tensor and not a linear layer or convolution with stored weights"),
    )


def test_a_term_that_ends_in_a_product_of_two_activations_is_skipped_with_its_operator() -> None:
    def term() -> nn.Module:
        return Function(lambda self, x: self.mlp(x) * torch.sigmoid(x), mlp=Mlp())

    _, _, site = _beside([term(), term()])
    assert _reasons(site) == [
        f"{name} is aten.mul.Tensor and not a linear layer or convolution with stored weights"
        for name in ("mul", "mul_1")
    ]


# ------------------------------------------------------------------------------------------------------ convolutions


class OneConvolution(nn.Module):
    """relu and a convolution, a gain for each channel behind it or not."""

    def __init__(self, *, gain: bool = False, rank: int = 2, **settings: Any) -> None:
        super().__init__()
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
        self.convolution = convolution(WIDTH, WIDTH, **settings)
        self.gain = nn.Parameter(torch.empty(WIDTH, *[1] * rank)) if gain else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.convolution(F.relu(x))
        return y if self.gain is None else self.gain * y


@pytest.mark.parametrize("gain", [False, True])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": "same"},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": 5, "padding": 2, "bias": False},
        {"kernel_size": 1},
        {"kernel_size": 1, "padding": "valid"},
    ],
)
def test_a_change_of_a_convolution_is_one_of_its_centre_tap(settings: dict[str, Any], rank: int, gain: bool) -> None:
    example = normal(3, WIDTH, *[6, 5, 4][:rank])
    model, module, site = _beside([OneConvolution(gain=gain, rank=rank, **settings) for _ in range(2)], example)
    features = level_features(site)
    assert (features.axis, features.skipped, features.source) == (1, (), site.entry)
    assert [(out.axis, out.width) for out in features.outs] == [(1, WIDTH)] * 2
    changes = _change_all(module, site)
    finished = finish(module)
    x = normal(7, *example.shape[1:], seed=2)
    with torch.no_grad():
        added = torch.einsum("oc,nc...->no...", sum(changes), F.relu(x))
        expected = x + model.terms[0](x) + model.terms[1](x) + added
    assert relative_error(finished(x), expected) < 1e-12
    assert wrong_metadata(finished, x) == []


def test_the_weights_of_a_convolution_may_lie_channels_last() -> None:
    model = Residual([OneConvolution(kernel_size=3, padding=1) for _ in range(2)])
    randomised(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = normal(3, WIDTH, 6, 5)
    module, levels = _levels(graph_of(model, x), 2, [[[0], [1]]])
    changes = _change_all(module, levels[0])
    with torch.no_grad():
        added = torch.einsum("oc,nc...->no...", sum(changes), F.relu(x))
        expected = x + model.terms[0](x) + model.terms[1](x) + added
    assert relative_error(finish(module)(x), expected) < 1e-12


class Upsampled(nn.Module):
    """A convolution of stride 2 on a state twice as fine."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.convolution(x.repeat_interleave(2, -1).repeat_interleave(2, -2))
        return y


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(
    "term",
    [
        Upsampled,
        lambda: OneConvolution(kernel_size=2, padding="same"),
        lambda: OneConvolution(kernel_size=3, padding=1, groups=2),
        lambda: OneConvolution(kernel_size=3, padding=1, groups=WIDTH),
    ],
    ids=["stride 2", "even kernel", "groups", "depthwise"],
)
def test_a_convolution_that_is_no_sum_over_one_position_is_refused(term: Callable[[], nn.Module]) -> None:
    _, _, site = _beside([term(), term()], normal(3, WIDTH, 6, 6))
    features = level_features(site)
    assert features.outs == ()
    assert [skip.reason for skip in features.skipped] == [
        f"the convolution {skip.node} is no sum over one position" for skip in features.skipped
    ]
    assert len(features.skipped) == 2


class NextBlock(nn.Module):
    """ConvNeXt: depthwise convolution, then norm and MLP with the channels last, a gain, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 12), nn.Linear(12, WIDTH)
        self.gain = nn.Parameter(torch.empty(WIDTH))

    def hidden(self, x: Tensor) -> Tensor:
        return F.gelu(self.up(self.norm(self.depthwise(x).permute(0, 2, 3, 1))))

    def forward(self, x: Tensor) -> Tensor:
        return (self.gain * self.down(self.hidden(x))).permute(0, 3, 1, 2)


def test_a_linear_behind_a_permutation_to_a_channels_first_state_changes_with_its_gain() -> None:
    model, module, site = _beside([NextBlock(), NextBlock()], normal(3, WIDTH, 6, 5))
    features = level_features(site)
    assert (features.axis, features.skipped, features.source) == (1, (), site.entry)
    assert [(out.axis, out.width) for out in features.outs] == [(-1, 12)] * 2
    changes = _change_all(module, site)
    finished = finish(module)
    x = normal(7, WIDTH, 6, 5, seed=2)
    with torch.no_grad():
        parts = zip(model.terms, changes, strict=True)
        expected = x + sum(term(x) + (term.hidden(x) @ change.T).permute(0, 3, 1, 2) for term, change in parts)  # type: ignore[operator]
    assert relative_error(finished(x), expected) < 1e-12
    assert wrong_metadata(finished, x) == []


def test_features_that_lie_otherwise_than_the_state_get_no_branch_apart() -> None:
    graph = graph_of(randomised(Residual([NextBlock() for _ in range(4)])), normal(3, WIDTH, 6, 5))
    _, levels = _levels(graph, 4, [[[0, 1], [2, 3]]])
    assert _reasons(levels[0]) == [f"the features of {name} do not lie as the state does" for name in _down(levels[0])]
    assert len(level_features(levels[0]).outs) == 2


def _down(site: LevelSite) -> list[str]:
    """The last linears of the first terms of two chains of two."""
    linears = [[n.name for n in term.nodes if n.target == LINEAR] for term in site.terms[::2]]
    return [names[-1] for names in linears]


class Rows(nn.Module):
    """An MLP on a view of all positions as rows."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = Mlp()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.mlp(x.reshape(-1, WIDTH)).reshape(x.shape)
        return y


def test_a_linear_behind_a_view_of_rows_changes_and_gets_no_branch_apart() -> None:
    graph = graph_of(randomised(Residual([Rows() for _ in range(4)])), tokens())
    _, levels = _levels(graph, 4, [[[0, 1], [2, 3]]])
    assert [out.apart for out in level_features(levels[0]).outs] == [False, False]
    assert _reasons(levels[0]) == [f"the features of {name} do not lie as the state does" for name in _down(levels[0])]
    model, module, site = _beside([Rows(), Rows()])
    changes = _change_all(module, site)
    x = tokens()
    with torch.no_grad():
        mlps_ = [term.mlp for term in model.terms]
        hidden = [F.gelu(mlp.up(mlp.norm(x))) for mlp in mlps_]  # type: ignore[operator, union-attr]
        added = sum(h @ change.T for h, change in zip(hidden, changes, strict=True))
        expected = x + sum(mlp(x) for mlp in mlps_) + added  # type: ignore[operator]
    assert relative_error(finish(module)(x), expected) < 1e-12


class Conformer(nn.Module):
    """A convolution over the tokens inside a term whose state has its channels last."""

    def __init__(self, *, norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH) if norm else nn.Identity()
        self.convolution = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(F.gelu(self.convolution(self.norm(x).transpose(1, 2)).transpose(1, 2)))
        return y


@pytest.mark.parametrize("norm", [True, False])
def test_a_convolution_inside_a_term_on_tokens_leaves_the_channels_last(norm: bool) -> None:
    _, _, site = _beside([Conformer(norm=norm), Conformer(norm=norm)])
    features = level_features(site)
    assert (features.axis, features.skipped) == (-1, ())
    assert _weights(features.outs) == ["terms.0.out.weight", "terms.1.out.weight"]


def test_a_linear_over_the_tokens_is_refused() -> None:
    def mixer(self: nn.Module, x: Tensor) -> Tensor:
        y: Tensor = self.mix(self.norm(x).transpose(1, 2)).transpose(1, 2)  # type: ignore[operator]
        return y

    def term() -> nn.Module:
        return Function(mixer, norm=nn.LayerNorm(WIDTH), mix=nn.Linear(TOKENS, TOKENS))

    _, _, site = _beside([term(), term()])
    assert _reasons(site) == [f"the channels of {name} are not those of the state" for name in ("linear", "linear_1")]


# ------------------------------------------------------------------------------------------- other kinds of terms


def test_an_attention_and_an_mlp_that_are_one_term_have_an_out_projection_each() -> None:
    def both(self: nn.Module, x: Tensor) -> Tensor:
        y: Tensor = self.attention(x) + self.mlp(x)  # type: ignore[operator]
        return y

    terms = [Function(both, attention=Attention("chunk"), mlp=Mlp()) for _ in range(2)]
    model, module, site = _beside(terms)
    features = level_features(site)
    assert _weights(features.outs) == [
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
    model, module, site = _beside([GatedMlp(), GatedMlp()])
    changes = _change_all(module, site)
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
    _, _, site = _beside(terms)
    assert level_features(site).outs == ()
    return _reasons(site)


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

    _, _, site = _beside([Function(pooled, mlp=Mlp(), pool=nn.Linear(WIDTH, WIDTH)) for _ in range(2)])
    assert _weights(level_features(site).outs) == ["terms.0.mlp.down.weight", "terms.1.mlp.down.weight"]
    assert _reasons(site) == [f"{name} does not lie as the state does" for name in ("linear_2", "linear_5")]


def test_a_linear_with_computed_weights_is_skipped() -> None:
    def computed(self: nn.Module, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(x), self.weight * x.mean())  # type: ignore[operator]

    _, _, site = _beside([Function(computed, weight=torch.empty(WIDTH, WIDTH)) for _ in range(2)])
    assert _reasons(site) == [f"the weights of {name} are computed and not stored" for name in ("linear", "linear_1")]


# --------------------------------------------------------------------------------------------------- norms after adds


def _post_norm() -> tuple[Residual, fx.GraphModule]:
    model = Residual([Mlp(nn.Identity()) for _ in range(4)], [nn.LayerNorm(WIDTH) for _ in range(4)])
    randomised(model)
    return model, graph_of(model, tokens())


def test_terms_with_norms_of_their_own_get_branches_apart() -> None:
    _, levels = _levels(_post_norm()[1], 4, [[[0], [1]], [[2]], [[3]]])
    assert [[out.apart for out in level_features(level).outs] for level in levels] == [[True, True], [False], [False]]
    assert level_features(levels[0]).skipped == ()


def test_terms_under_a_shared_norm_have_out_projections_that_may_change() -> None:
    model, graph = _post_norm()
    plan = Plan((StackPlan(4, (Level(((0,), (1,), (2,), (3,)), shared=True),)),))
    module, (site,) = rewrite(graph, plan)
    assert [out.apart for out in level_features(site.levels[0]).outs] == [False] * 4
    changes = _change_all(module, site.levels[0])
    x = tokens()
    with torch.no_grad():
        hidden = [F.gelu(term.up(x)) for term in model.terms]  # type: ignore[operator]
        added = sum(h @ change.T for h, change in zip(hidden, changes, strict=True))
        expected = model.posts[3](x + sum(term(x) for term in model.terms) + added)
    assert relative_error(finish(module)(x), expected) < 1e-12


# --------------------------------------------------------------------------------------------------- the affine part


def test_the_norm_of_a_level_is_one_of_its_state() -> None:
    _, levels = _levels(vision()[1], 8, [[[0], [2]], [[1], [3]]])
    for level in levels:
        norm = level_features(level).source
        assert norm.target == LAYER_NORM
        assert norm.args[0] is level.entry


def test_a_level_whose_terms_have_no_norm_reads_the_state() -> None:
    graph = graph_of(randomised(Residual([nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)])), tokens())
    _, levels = _levels(graph, 2, [[[0], [1]]])
    assert level_features(levels[0]).source is levels[0].entry


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        (lambda: Mlp(nn.LayerNorm(WIDTH, eps=0.3)), lambda x: F.layer_norm(x, (WIDTH,), eps=0.3)),
        (lambda: Mlp(nn.LayerNorm(WIDTH)), lambda x: F.layer_norm(x, (WIDTH,))),
        (GatedMlp, lambda x: F.rms_norm(x, (WIDTH,), eps=1e-6)),
        (lambda: Mlp(nn.RMSNorm(WIDTH, eps=0.3)), lambda x: F.rms_norm(x, (WIDTH,), eps=0.3)),
        (lambda: Mlp(nn.RMSNorm(WIDTH)), lambda x: F.rms_norm(x, (WIDTH,))),
    ],
)
def test_a_plain_norm_is_the_norm_without_gain_and_shift(term: type[nn.Module], expected: type[Tensor]) -> None:
    graph = graph_of(randomised(Residual([term(), term()])), tokens())
    module, levels = _levels(graph, 2, [[[0], [1]]])
    norm = level_features(levels[0]).source
    node = plain_norm(module, norm)
    (output,) = module.graph.find_nodes(op="output")
    output.args = (node,)
    module.recompile()
    assert relative_error(module(tokens()), expected(tokens())) < 1e-14
    assert str(node.meta["val"].shape) == str(norm.meta["val"].shape)


def test_a_change_of_an_out_projection_is_added_to_its_weight() -> None:
    model, graph = mlps(2)
    module, levels = _levels(graph, 2, [[[0], [1]]])
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
    graph = graph_of(randomised(Residual([term, term])), tokens())
    module, levels = _levels(graph, 2, [[[0], [1]]])
    first, second = level_features(levels[0]).outs
    before = read_parameter(module, second.node.args[1]).clone()  # type: ignore[arg-type]
    change_out_projection(module, first, torch.ones(WIDTH, 12, dtype=torch.float64))
    assert torch.equal(read_parameter(module, second.node.args[1]), before)  # type: ignore[arg-type]
    assert torch.equal(read_parameter(module, first.node.args[1]), before + 1)  # type: ignore[arg-type]
    assert torch.equal(term.down.weight, before)


def test_a_change_keeps_the_dtype_of_the_weight() -> None:
    graph = graph_of(randomised(Residual([Mlp(), Mlp()])).float(), tokens().float())
    module, levels = _levels(graph, 2, [[[0], [1]]])
    (out, _) = level_features(levels[0]).outs
    change_out_projection(module, out, normal(WIDTH, 12))
    assert read_parameter(module, out.node.args[1]).dtype == torch.float32  # type: ignore[arg-type]


@pytest.mark.parametrize("levels", [[[[0], [1]], [[2], [3]]], [[[0, 1], [2, 3]]], [[[0]], [[1, 2, 3]]]])
def test_an_affine_branch_is_added_to_the_state_after_its_level(levels: Levels) -> None:
    model, graph = mlps(4)
    module, sites = _levels(graph, 4, levels)
    weight, bias = normal(WIDTH, WIDTH, seed=3), normal(WIDTH, seed=4)
    total = add_branch(module, sites[0].sum, sites[0].entry, weight, bias, -1)
    with torch.no_grad():
        state = after_levels(model.steps(), levels[:1], tokens()) + tokens() @ weight.T + bias
        expected = after_levels(model.steps(), levels[1:], state)
    assert str(total.meta["val"].shape) == str(sites[0].entry.meta["val"].shape)
    finished = finish(module)
    assert relative_error(finished(tokens()), expected) < 1e-12
    assert wrong_metadata(finished, tokens(7)) == []


def test_an_affine_branch_behind_the_last_level_reaches_the_outputs() -> None:
    model, graph = mlps(2)
    module, sites = _levels(graph, 2, [[[0], [1]]])
    bias = torch.full((WIDTH,), 5.0, dtype=torch.float64)
    add_branch(module, sites[-1].sum, sites[-1].entry, torch.zeros(WIDTH, WIDTH, dtype=torch.float64), bias, -1)
    with torch.no_grad():
        expected = after_levels(model.steps(), [[[0], [1]]], tokens()) + 5.0
    assert relative_error(finish(module)(tokens()), expected) < 1e-12


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_branch_of_a_channels_first_state_is_a_pointwise_convolution(rank: int) -> None:
    example = normal(3, WIDTH, *[6, 5, 4][:rank])
    model, module, site = _beside([OneConvolution(rank=rank, kernel_size=3, padding=1) for _ in range(2)], example)
    weight, bias = normal(WIDTH, WIDTH, seed=3), normal(WIDTH, seed=4)
    add_branch(module, site.sum, site.entry, weight, bias, 1)
    finished = finish(module)
    x = normal(7, *example.shape[1:], seed=2)
    with torch.no_grad():
        added = torch.einsum("oc,nc...->no...", weight, x) + bias.reshape(WIDTH, *[1] * rank)
        expected = x + model.terms[0](x) + model.terms[1](x) + added
    assert relative_error(finished(x), expected) < 1e-12
    assert wrong_metadata(finished, x) == []


def test_attention_without_a_stored_out_projection_is_skipped() -> None:
    class Bare(Attention):
        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            return torch.tanh(super().forward(x, mask))

    graph = graph_of(randomised(Residual([Bare("chunk"), Bare("chunk")])), tokens())
    _, levels = _levels(graph, 2, [[[0], [1]]])
    assert [skip.node for skip in level_features(levels[0]).skipped] == ["tanh", "tanh_1"]
    assert aten.tanh.default in [node.target for node in levels[0].contributions]
