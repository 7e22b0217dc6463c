"""The sum over branches inside the last product: what goes into its weights, what moves, what is summed after it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.fusion.contraction import contract
from passes.fusion.emitter import Branches, Emitter
from passes.fusion.fuse_width import FuseWidth
from passes.fusion.layout import CannotLiftError, Lifted, Pieces, Stored
from passes.graph import operators as ops
from passes.runner import PassRecord
from tests.passes.models import (
    TOKENS,
    WIDTH,
    Function,
    fixed_graph_of,
    graph_of,
    normal,
    randomised,
    relative_error,
    run,
    text,
    wrong_metadata,
)
from tests.sampled import sampled

aten = torch.ops.aten
Make = Callable[[], dict[str, nn.Module | Tensor]]
SUMS = aten.sum.dim_IntList


def _fused(
    function: Callable[..., Tensor], make: Make, example: Tensor
) -> tuple[fx.GraphModule, fx.GraphModule, PassRecord]:
    """x and three equal branches of it, before and after fusion."""

    def level(self: Function, x: Tensor) -> Tensor:
        return x + self.a(x) + self.b(x) + self.c(x)

    branches = {name: Function(function, **make()) for name in "abc"}
    graph = graph_of(randomised(Function(level, **branches)), example)
    return graph, *run(graph, FuseWidth(), example)


def _count(graph: fx.GraphModule, *targets: object) -> int:
    return sum(node.op == "call_function" and node.target in targets for node in graph.graph.nodes)


def _tokens(batch: int = 3) -> Tensor:
    return normal(batch, TOKENS, WIDTH)


def _pixels(batch: int = 3) -> Tensor:
    return normal(batch, WIDTH, 4, 4)


def _linears(*, bias: bool = True, **more: Tensor) -> Make:
    return lambda: {"up": nn.Linear(WIDTH, 12), "down": nn.Linear(12, WIDTH, bias=bias), **more}


def _convs(*, bias: bool = True, groups: int = 1, **more: Tensor) -> Make:
    return lambda: {
        "up": nn.Conv2d(WIDTH, 12, 3, padding=1),
        "down": nn.Conv2d(12, WIDTH, 3, padding=1, bias=bias, groups=groups),
        **more,
    }


def _hidden(self: Function, x: Tensor) -> Tensor:
    y: Tensor = self.down(torch.relu(self.up(x)))
    return y


def _both(function: Callable[[Function, Tensor], Tensor]) -> Callable[[Function, Tensor], Tensor]:
    """function(branch, down(relu(up(x))))"""
    return lambda self, x: function(self, _hidden(self, x))


def _moved_heads(self: Function, x: Tensor) -> Tensor:
    """Attention's out-projection with batch and tokens swapped around it."""
    y: Tensor = self.down(torch.relu(self.up(x)).transpose(0, 1))
    return y.transpose(0, 1)


INSIDE = {
    "a linear": (_hidden, _linears()),
    "a linear without bias": (_hidden, _linears(bias=False)),
    "a linear of the state": (lambda s, x: s.only(x), lambda: {"only": nn.Linear(WIDTH, WIDTH)}),
    "a linear of the normed state": (
        lambda s, x: s.only(F.layer_norm(x, (WIDTH,), s.gain)),
        lambda: {"only": nn.Linear(WIDTH, WIDTH), "gain": normal(WIDTH)},
    ),
    "a scale of each channel": (_both(lambda s, y: y * s.scale), _linears(scale=normal(WIDTH))),
    "a scale on the left": (_both(lambda s, y: s.scale * y), _linears(scale=normal(WIDTH))),
    "a scale of one number": (_both(lambda s, y: y * s.scale), _linears(scale=normal(1))),
    "a number": (_both(lambda s, y: 0.5 * y), _linears()),
    "a number that divides": (_both(lambda s, y: y / 4.0), _linears()),
    "two scales": (_both(lambda s, y: s.scale * y * 0.5), _linears(scale=normal(WIDTH))),
    "a scale without bias": (_both(lambda s, y: y * s.scale), _linears(bias=False, scale=normal(WIDTH))),
    "a copy": (_both(lambda s, y: (y * 2.0).clone()), _linears()),
    "swapped around the product": (_moved_heads, _linears()),
    "merged tokens": (
        lambda s, x: _hidden(s, x.reshape(-1, WIDTH)).view(-1, TOKENS, WIDTH),
        _linears(),
    ),
    "merged tokens, then scaled": (
        lambda s, x: _hidden(s, x.reshape(-1, WIDTH)).view(-1, TOKENS, WIDTH) * s.scale,
        _linears(scale=normal(WIDTH)),
    ),
    "features that move": (
        lambda s, x: _hidden(s, x).reshape(-1, WIDTH, TOKENS).transpose(1, 2),
        _linears(),
    ),
}
CONVOLUTIONS = {
    "a convolution": (_hidden, _convs()),
    "a convolution without bias": (_hidden, _convs(bias=False)),
    "a convolution of the state": (lambda s, x: s.only(x), lambda: {"only": nn.Conv2d(WIDTH, WIDTH, 1)}),
    "groups": (_hidden, _convs(groups=2)),
    "a scale of each channel": (_both(lambda s, y: y * s.scale), _convs(scale=normal(WIDTH, 1, 1))),
    "a scale of one number": (_both(lambda s, y: y * s.scale), _convs(scale=normal(1))),
    "a number": (_both(lambda s, y: 0.5 * y), _convs(bias=False)),
    "a scale of each channel in groups": (_both(lambda s, y: s.scale * y), _convs(groups=4, scale=normal(WIDTH, 1, 1))),
}


@pytest.mark.parametrize(("function", "make"), sampled(INSIDE, 2))
def test_the_sum_is_inside_the_last_linear(function: Callable[..., Tensor], make: Make) -> None:
    graph, fused, record = _fused(function, make, _tokens())
    assert record.skipped == ()
    assert len(record.matches) == 1
    assert _count(fused, ops.LINEAR) == _count(graph, ops.LINEAR) // 3
    assert _count(fused, SUMS, aten.mul.Tensor, aten.div.Tensor, aten.bmm.default) == 0
    for batch in (1, 3):
        assert relative_error(fused(_tokens(batch)), graph(_tokens(batch))) < 1e-10
        assert wrong_metadata(fused, _tokens(batch)) == []
    again, second = run(fused, FuseWidth(), _tokens())
    assert second.matches == ()
    assert text(again) == text(fused)


@pytest.mark.parametrize(("function", "make"), CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_the_sum_is_inside_the_last_convolution(function: Callable[..., Tensor], make: Make) -> None:
    graph, fused, record = _fused(function, make, _pixels())
    assert record.skipped == ()
    assert len(record.matches) == 1
    assert _count(fused, aten.conv2d.default) == _count(graph, aten.conv2d.default) // 3
    assert _count(fused, SUMS, aten.mul.Tensor) == 0
    for batch in (1, 3):
        assert relative_error(fused(_pixels(batch)), graph(_pixels(batch))) < 1e-10
        assert wrong_metadata(fused, _pixels(batch)) == []
    assert run(fused, FuseWidth())[1].matches == ()


BEHIND = {
    "an activation": (_both(lambda s, y: torch.tanh(y)), _linears(), _tokens),
    "a norm": (_both(lambda s, y: F.layer_norm(y, (WIDTH,), s.gain)), _linears(gain=normal(WIDTH)), _tokens),
    "a scale of each token": (_both(lambda s, y: y * s.scale), _linears(scale=normal(TOKENS, 1)), _tokens),
    "a parameter that divides": (_both(lambda s, y: y / s.scale), _linears(scale=normal(WIDTH)), _tokens),
    "a number that is divided": (_both(lambda s, y: 1.0 / y), _linears(), _tokens),
    "a scale of each pixel": (_both(lambda s, y: y * s.scale), _convs(scale=normal(4, 4)), _pixels),
    "a scale of the last dimension": (_both(lambda s, y: y * s.scale), _convs(scale=normal(4)), _pixels),
    "a scale after the features have moved": (
        lambda s, x: _hidden(s, x).transpose(1, 2).reshape(x.shape) * s.scale,
        _linears(scale=normal(WIDTH)),
        _tokens,
    ),
    "the product read twice": (_both(lambda s, y: y * torch.sigmoid(y)), _linears(), _tokens),
}


@pytest.mark.parametrize(("function", "make", "example"), sampled(BEHIND, 3))
def test_what_is_no_scale_of_channels_stays_behind_the_product_and_is_summed(
    function: Callable[..., Tensor], make: Make, example: Callable[..., Tensor]
) -> None:
    graph, fused, record = _fused(function, make, example())
    assert record.skipped == ()
    assert len(record.matches) == 1
    assert _count(fused, SUMS) == 1
    for batch in (1, 3):
        assert relative_error(fused(example(batch)), graph(example(batch))) < 1e-10
        assert wrong_metadata(fused, example(batch)) == []
    assert run(fused, FuseWidth())[1].matches == ()


def test_unlike_groups_share_the_product_at_their_end() -> None:
    def level(self: Function, x: Tensor) -> Tensor:
        return x + _hidden(self.a, x) + _hidden(self.b, x) + torch.addcmul(x, x, x) + self.c(x)

    def mlp(hidden: int) -> Function:
        return Function(_hidden, up=nn.Linear(WIDTH, hidden), down=nn.Linear(hidden, WIDTH))

    graph = graph_of(randomised(Function(level, a=mlp(12), b=mlp(12), c=nn.Linear(WIDTH, WIDTH))), _tokens())
    fused, record = run(graph, FuseWidth(), _tokens())
    assert len(record.matches) == 1
    assert _count(fused, ops.LINEAR) == 2
    (out,) = (n for n in fused.graph.find_nodes(op="call_function", target=ops.LINEAR) if n.prev.op == "get_attr" and
              n.args[1].meta["val"].shape == (WIDTH, 12 + 12 + WIDTH))  # fmt: skip
    assert out.args[2] is not None
    assert relative_error(fused(_tokens(7)), graph(_tokens(7))) < 1e-10


def test_convolutions_of_unlike_kernels_keep_products_of_their_own() -> None:
    def level(self: Function, x: Tensor) -> Tensor:
        return x + self.a(x) + self.b(x) + self.c(x) + self.d(x)

    convs = {
        name: nn.Conv2d(WIDTH, WIDTH, kernel, padding=kernel // 2)
        for name, kernel in zip("abcd", (1, 3, 1, 3), strict=True)
    }
    graph = graph_of(randomised(Function(level, **convs)), _pixels())
    fused, _ = run(graph, FuseWidth(), _pixels())
    assert _count(fused, aten.conv2d.default) == 2
    assert relative_error(fused(_pixels(7)), graph(_pixels(7))) < 1e-10


@pytest.mark.parametrize(
    ("value", "held"),
    [
        (lambda _: Stored((torch.ones(WIDTH), torch.zeros(WIDTH))), "a parameter that differs between the branches"),
        (lambda node: Pieces(node, -1, 1), "several values at once"),
    ],
    ids=["stored", "pieces"],
)
@pytest.mark.parametrize("inside", [True, False])
def test_what_lies_in_no_tensor_has_no_sum(value: Callable[[fx.Node], Lifted], held: str, inside: bool) -> None:
    graph = fixed_graph_of(randomised(nn.Linear(WIDTH, WIDTH)), normal(3, WIDTH))
    (linear,) = graph.graph.find_nodes(op="call_function", target=ops.LINEAR)
    source = linear.args[0]
    emitter = Emitter(graph, Branches(((source, linear),) * 2, ((linear,),) * 2, frozenset({linear})), linear, {})
    env = {source: value(source), linear: value(linear)}
    before = text(graph)
    with pytest.raises(CannotLiftError, match=rf"linear \(aten.linear.default\) reads {held}"):
        contract(emitter, linear, (linear,) if inside else None, env)
    assert text(graph) == before
