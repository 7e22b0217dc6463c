"""Batch norms in eval mode go into the convolution or linear before them; those that cannot say why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.clean.fold_batch_norm import FoldBatchNorm
from passes.graph.editing import finish
from passes.graph.operators import LINEAR, PLAIN_CONVOLUTIONS
from passes.runner import Skip
from tests.passes.models import (
    Function,
    graph_of,
    mlps,
    normal,
    randomised,
    relative_error,
    run,
    targets,
    text,
    wrong_metadata,
)

aten = torch.ops.aten
CHANNELS, WIDE = 4, 6
NORM = aten.batch_norm.default


def _statistics(module: nn.Module) -> nn.Module:
    """The module randomised, with means and variances that are not those of a new batch norm."""
    module = randomised(module)
    for number, norm in enumerate(m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
        if norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.copy_(normal(norm.num_features, seed=20 + number))
            norm.running_var.copy_(normal(norm.num_features, seed=40 + number).square() + 0.5)
    return module


def _graph(module: nn.Module, *example: Tensor, **options: Any) -> fx.GraphModule:
    return finish(graph_of(_statistics(module), *example, **options))


def pixels(batch: int = 3, dims: int = 2) -> Tensor:
    return normal(batch, CHANNELS, *[5] * dims)


FOLDED = {
    "conv1d": (nn.Conv1d(CHANNELS, WIDE, 3), nn.BatchNorm1d(WIDE), 1),
    "conv2d": (nn.Conv2d(CHANNELS, WIDE, 3, stride=2), nn.BatchNorm2d(WIDE), 2),
    "conv3d": (nn.Conv3d(CHANNELS, WIDE, 3), nn.BatchNorm3d(WIDE), 3),
    "conv2d without bias": (nn.Conv2d(CHANNELS, WIDE, 3, bias=False), nn.BatchNorm2d(WIDE), 2),
    "conv2d with zeros around": (nn.Conv2d(CHANNELS, WIDE, 3, padding=1, dilation=2), nn.BatchNorm2d(WIDE), 2),
    "conv2d with named padding": (nn.Conv2d(CHANNELS, WIDE, 3, padding="same"), nn.BatchNorm2d(WIDE), 2),
    "conv2d in groups": (nn.Conv2d(CHANNELS, WIDE, 3, groups=2), nn.BatchNorm2d(WIDE), 2),
    "conv2d of each channel": (nn.Conv2d(CHANNELS, CHANNELS, 3, groups=CHANNELS), nn.BatchNorm2d(CHANNELS), 2),
    "norm without gain and shift": (nn.Conv2d(CHANNELS, WIDE, 3), nn.BatchNorm2d(WIDE, affine=False), 2),
    "neither bias nor gain": (nn.Conv2d(CHANNELS, WIDE, 3, bias=False), nn.BatchNorm2d(WIDE, affine=False), 2),
    "norm with another epsilon": (nn.Conv2d(CHANNELS, WIDE, 3), nn.BatchNorm2d(WIDE, eps=0.1), 2),
    "norm with an epsilon of one": (nn.Conv2d(CHANNELS, WIDE, 3), nn.BatchNorm2d(WIDE, eps=1), 2),
    "linear": (nn.Linear(CHANNELS, WIDE), nn.BatchNorm1d(WIDE), 0),
    "linear without bias": (nn.Linear(CHANNELS, WIDE, bias=False), nn.BatchNorm1d(WIDE), 0),
}


@pytest.mark.parametrize(("product", "norm", "dims"), FOLDED.values(), ids=FOLDED.keys())
def test_a_batch_norm_goes_into_the_product_before_it(product: nn.Module, norm: nn.Module, dims: int) -> None:
    graph = _graph(nn.Sequential(product, norm, nn.ReLU()), pixels(3, dims))
    folded, record = run(graph, FoldBatchNorm(), pixels(3, dims))
    (before,) = (node.name for node in graph.graph.nodes if node.target in PLAIN_CONVOLUTIONS | {LINEAR})
    assert NORM in targets(graph)
    assert targets(folded) == [target for target in targets(graph) if target != NORM]
    assert record.matches == (f"batch_norm into {before}",)
    assert record.skipped == ()
    for batch in (1, 3):
        assert relative_error(folded(pixels(batch, dims)), graph(pixels(batch, dims))) < 1e-10
        assert wrong_metadata(folded, pixels(batch, dims)) == []
    again, second = run(folded, FoldBatchNorm(), pixels(3, dims))
    assert second.matches == second.skipped == ()
    assert text(again) == text(folded)


def test_the_parameters_are_the_product_s_alone_and_in_its_dtype() -> None:
    model = _statistics(nn.Sequential(nn.Conv2d(CHANNELS, WIDE, 3), nn.BatchNorm2d(WIDE))).float()
    graph = graph_of(model, pixels().float())
    folded, _ = run(graph, FoldBatchNorm(), pixels().float())
    state = folded.state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "folded_weight_0": (WIDE, CHANNELS, 3, 3),
        "folded_bias_0": (WIDE,),
    }
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert relative_error(folded(pixels().float()), graph(pixels().float())) < 1e-5


def test_a_weight_that_two_products_share_is_folded_for_each() -> None:
    conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
    layers = (conv, nn.BatchNorm2d(CHANNELS), nn.ReLU(), conv, nn.BatchNorm2d(CHANNELS))
    graph = _graph(nn.Sequential(*layers), pixels())
    folded, record = run(graph, FoldBatchNorm(), pixels())
    assert len(record.matches) == 2
    assert NORM not in targets(folded)
    assert relative_error(folded(pixels(1)), graph(pixels(1))) < 1e-10
    weights = [node.args[1].target for node in folded.graph.nodes if node.target == aten.conv2d.default]
    assert weights == ["folded_weight_0", "folded_weight_1"]


def test_one_norm_behind_two_products_is_folded_into_both() -> None:
    model = Function(
        lambda s, x: s.norm(s.a(x)) + s.norm(s.b(x)),
        a=nn.Conv2d(CHANNELS, WIDE, 3),
        b=nn.Conv2d(CHANNELS, WIDE, 3),
        norm=nn.BatchNorm2d(WIDE),
    )
    graph = _graph(model, pixels())
    folded, record = run(graph, FoldBatchNorm(), pixels())
    assert len(record.matches) == 2
    assert relative_error(folded(pixels(1)), graph(pixels(1))) < 1e-10


def test_of_two_norms_in_a_row_both_go_into_the_product() -> None:
    model = nn.Sequential(nn.Conv2d(CHANNELS, WIDE, 3), nn.BatchNorm2d(WIDE), nn.BatchNorm2d(WIDE))
    graph = _graph(model, pixels())
    folded, record = run(graph, FoldBatchNorm(), pixels())
    assert record.matches == ("batch_norm into conv2d", "batch_norm_1 into conv2d")
    assert targets(folded) == [aten.conv2d.default]
    assert relative_error(folded(pixels(1)), graph(pixels(1))) < 1e-10


def _with_batch_statistics(x: Tensor, conv: nn.Module) -> Tensor:
    return F.batch_norm(conv(x), None, None, training=True)


CONV = (nn.Conv2d(CHANNELS, WIDE, 3), nn.BatchNorm2d(WIDE))
REFUSED: dict[str, tuple[Callable[..., Any], dict[str, nn.Module], tuple[Tensor, ...], str]] = {
    "statistics of the batch": (
        lambda s, x: s.norm(s.conv(x)),
        {"conv": CONV[0], "norm": nn.BatchNorm2d(WIDE, track_running_stats=False)},
        (pixels(),),
        "batch_norm normalises by its batch, as in training mode",
    ),
    "a function in training mode": (
        lambda s, x: _with_batch_statistics(x, s.conv),
        {"conv": CONV[0]},
        (pixels(),),
        "batch_norm normalises by its batch, as in training mode",
    ),
    "behind an input": (
        lambda s, x: s.norm(x),
        {"norm": nn.BatchNorm2d(CHANNELS)},
        (pixels(),),
        "batch_norm reads inputs_0, which is no convolution and no linear",
    ),
    "behind an activation": (
        lambda s, x: s.norm(torch.relu(s.conv(x))),
        {"conv": CONV[0], "norm": CONV[1]},
        (pixels(),),
        "batch_norm reads relu, which is no convolution and no linear",
    ),
    "behind a product that is read twice": (
        lambda s, x: s.norm(y := s.conv(x)) + y,
        {"conv": CONV[0], "norm": CONV[1]},
        (pixels(),),
        "conv2d is read by 2 nodes, not by batch_norm alone",
    ),
    "behind a product that is an output too": (
        lambda s, x: (s.norm(y := s.conv(x)), y),
        {"conv": CONV[0], "norm": CONV[1]},
        (pixels(),),
        "conv2d is read by 2 nodes, not by batch_norm alone",
    ),
    "behind a product with a computed weight": (
        lambda s, x, w: s.norm(F.conv2d(x, w)),
        {"norm": CONV[1]},
        (pixels(), normal(WIDE, CHANNELS, 3, 3)),
        "inputs_1, which batch_norm folds, is no stored parameter",
    ),
    "with a computed gain": (
        lambda s, x, g: F.batch_norm(s.conv(x), s.norm.running_mean, s.norm.running_var, g),
        {"conv": CONV[0], "norm": CONV[1]},
        (pixels(), normal(WIDE)),
        "inputs_1, which batch_norm folds, is no stored parameter",
    ),
    "over the tokens of a linear": (
        lambda s, x: s.norm(s.linear(x)),
        {"linear": nn.Linear(5, CHANNELS), "norm": nn.BatchNorm1d(CHANNELS)},
        (pixels(3, 1),),
        "batch_norm normalises dimension 1 of linear, which does not hold its channels",
    ),
    "behind a transposed convolution": (
        lambda s, x: s.norm(s.conv(x)),
        {"conv": nn.ConvTranspose2d(CHANNELS, WIDE, 3), "norm": CONV[1]},
        (pixels(),),
        "batch_norm reads conv_transpose2d, which is no convolution and no linear",
    ),
}


@pytest.mark.parametrize(("function", "parts", "inputs", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_a_batch_norm_that_must_stay_says_why(
    function: Callable[..., Any], parts: dict[str, nn.Module], inputs: tuple[Tensor, ...], reason: str
) -> None:
    graph = _graph(Function(function, **parts), *inputs, dynamic=({0: "batch"}, *({} for _ in inputs[1:])))
    kept, record = run(graph, FoldBatchNorm(), *inputs)
    assert record.matches == ()
    assert record.skipped == (Skip("batch_norm", reason),)
    assert text(kept) == text(graph)


def test_behind_a_convolution_without_batch_the_height_is_no_channel() -> None:
    model = Function(
        lambda s, x: F.batch_norm(s.conv(x), s.norm.running_mean, s.norm.running_var),
        conv=nn.Conv2d(CHANNELS, WIDE, 3, padding=1),
        norm=nn.BatchNorm2d(WIDE),
    )
    x = normal(CHANNELS, WIDE, WIDE)
    graph = _graph(model, x, dynamic=None)
    kept, record = run(graph, FoldBatchNorm(), x)
    assert [skip.reason for skip in record.skipped] == [
        "batch_norm normalises dimension 1 of conv2d, which does not hold its channels"
    ]
    assert torch.equal(kept(x), graph(x))


def test_a_graph_without_batch_norms_stays_as_it_is_and_the_given_graph_is_not_changed() -> None:
    _, graph = mlps()
    same, record = run(graph, FoldBatchNorm())
    assert record.matches == record.skipped == ()
    assert text(same) == text(graph)
    graph = _graph(nn.Sequential(*CONV), pixels())
    before, output = text(graph), graph(pixels())
    run(graph, FoldBatchNorm())
    assert text(graph) == before
    assert torch.equal(graph(pixels()), output)
