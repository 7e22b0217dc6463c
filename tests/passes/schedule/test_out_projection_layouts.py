"""Out-projections of convolutions, and of linears on states whose channels or positions lie otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.graph.editing import finish
from passes.graph.operators import LINEAR
from passes.schedule.out_projection import level_features
from passes.schedule.sites import LevelSite
from tests.passes.models import (
    TOKENS,
    WIDTH,
    Function,
    Mlp,
    Residual,
    fixed_graph_of,
    normal,
    randomised,
    relative_error,
    tokens,
    wrong_metadata,
)
from tests.passes.schedule.levels import OneConvolution, beside, change_all, reasons_of, rewritten_levels, weights_of


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
    model, module, site = beside([OneConvolution(gain=gain, rank=rank, **settings) for _ in range(2)], example)
    features = level_features(site)
    assert (features.axis, features.skipped, features.source) == (1, (), site.entry)
    assert [(out.axis, out.width) for out in features.outs] == [(1, WIDTH)] * 2
    changes = change_all(module, site)
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
    module, levels = rewritten_levels(fixed_graph_of(model, x), 2, [[[0], [1]]])
    changes = change_all(module, levels[0])
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
    _, _, site = beside([term(), term()], normal(3, WIDTH, 6, 6))
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
    model, module, site = beside([NextBlock(), NextBlock()], normal(3, WIDTH, 6, 5))
    features = level_features(site)
    assert (features.axis, features.skipped, features.source) == (1, (), site.entry)
    assert [(out.axis, out.width) for out in features.outs] == [(-1, 12)] * 2
    changes = change_all(module, site)
    finished = finish(module)
    x = normal(7, WIDTH, 6, 5, seed=2)
    with torch.no_grad():
        parts = zip(model.terms, changes, strict=True)
        expected = x + sum(term(x) + (term.hidden(x) @ change.T).permute(0, 3, 1, 2) for term, change in parts)  # type: ignore[operator]
    assert relative_error(finished(x), expected) < 1e-12
    assert wrong_metadata(finished, x) == []


def test_features_that_lie_otherwise_than_the_state_get_no_branch_apart() -> None:
    graph = fixed_graph_of(randomised(Residual([NextBlock() for _ in range(4)])), normal(3, WIDTH, 6, 5))
    _, levels = rewritten_levels(graph, 4, [[[0, 1], [2, 3]]])
    assert reasons_of(levels[0]) == [
        f"the features of {name} do not lie as the state does" for name in _down(levels[0])
    ]
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
    graph = fixed_graph_of(randomised(Residual([Rows() for _ in range(4)])), tokens())
    _, levels = rewritten_levels(graph, 4, [[[0, 1], [2, 3]]])
    assert [out.apart for out in level_features(levels[0]).outs] == [False, False]
    assert reasons_of(levels[0]) == [
        f"the features of {name} do not lie as the state does" for name in _down(levels[0])
    ]
    model, module, site = beside([Rows(), Rows()])
    changes = change_all(module, site)
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
    _, _, site = beside([Conformer(norm=norm), Conformer(norm=norm)])
    features = level_features(site)
    assert (features.axis, features.skipped) == (-1, ())
    assert weights_of(features.outs) == ["terms.0.out.weight", "terms.1.out.weight"]


def test_a_linear_over_the_tokens_is_refused() -> None:
    def mixer(self: nn.Module, x: Tensor) -> Tensor:
        y: Tensor = self.mix(self.norm(x).transpose(1, 2)).transpose(1, 2)  # type: ignore[operator]
        return y

    def term() -> nn.Module:
        return Function(mixer, norm=nn.LayerNorm(WIDTH), mix=nn.Linear(TOKENS, TOKENS))

    _, _, site = beside([term(), term()])
    assert reasons_of(site) == [f"the channels of {name} are not those of the state" for name in ("linear", "linear_1")]
