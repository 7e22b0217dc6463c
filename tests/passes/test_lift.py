"""Rules of lifting: which operators pass the branches through, and the sentence where one cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.fuse_width import FuseWidth
from passes.infra import PassRecord
from passes.lift_products import folded_bias, folded_weight
from passes.operators import LINEAR, gemms
from passes.remove_identities import RemoveIdentities
from tests.passes.models import (
    HEADS,
    HIDDEN,
    TOKENS,
    WIDTH,
    Function,
    graph_of,
    normal,
    randomised,
    relative_error,
    run,
    text,
    tokens,
    wide_operators,
    wrong_metadata,
)

HEAD = WIDTH // HEADS
SDPA = "scaled_dot_product_attention"


@dataclass(frozen=True)
class Branch:
    """A term as a function of its parts and its inputs; each part is made anew for each branch."""

    forward: Callable[..., Tensor]
    parts: dict[str, Callable[[], nn.Module | Tensor]]
    sides: tuple[Tensor, ...] = ()


def _up() -> nn.Module:
    return nn.Linear(WIDTH, HIDDEN)


def _down() -> nn.Module:
    return nn.Linear(HIDDEN, WIDTH)


def _square() -> nn.Module:
    return nn.Linear(WIDTH, WIDTH)


def _hidden(function: Callable[..., Tensor], *sides: Tensor, **parts: Callable[[], nn.Module | Tensor]) -> Branch:
    """down(function(branch, up(x))) and what it reads beside x."""

    def forward(self: Function, x: Tensor, *inputs: Tensor) -> Tensor:
        y: Tensor = self.down(function(self, self.up(x), *inputs))
        return y

    return Branch(forward, {"up": _up, "down": _down, **parts}, sides)


def _out(function: Callable[..., Tensor], *sides: Tensor, **parts: Callable[[], nn.Module | Tensor]) -> Branch:
    """function(branch, down(relu(up(x)))) and what it reads beside x."""

    def forward(self: Function, x: Tensor, *inputs: Tensor) -> Tensor:
        return function(self, self.down(F.relu(self.up(x))), *inputs)

    return Branch(forward, {"up": _up, "down": _down, **parts}, sides)


def _attention(mask: Callable[..., Tensor | None], *sides: Tensor, **parts: Callable[[], nn.Module | Tensor]) -> Branch:
    """Attention with separate projections and a mask."""

    def forward(self: Function, x: Tensor, *inputs: Tensor) -> Tensor:
        layers = (self.query, self.key, self.value)
        query, key, value = (layer(x).view(*x.shape[:2], HEADS, HEAD).transpose(1, 2) for layer in layers)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask(self, *inputs))
        y: Tensor = self.out(mixed.transpose(1, 2).reshape(x.shape))
        return y

    return Branch(forward, {**dict.fromkeys(("query", "key", "value", "out"), _square), **parts}, sides)


def _fuse(branch: Branch, *, probed: bool = True) -> tuple[fx.GraphModule, fx.GraphModule, PassRecord]:
    """A level of two such branches before and after, and what the pass said."""

    def made() -> Function:
        return Function(branch.forward, **{name: make() for name, make in branch.parts.items()})

    def level(self: Function, x: Tensor, *sides: Tensor) -> Tensor:
        y: Tensor = x + self.a(x, *sides) + self.b(x, *sides)
        return y

    captured = graph_of(randomised(Function(level, a=made(), b=made())), tokens(), *branch.sides)
    graph, _ = run(captured, RemoveIdentities())
    return graph, *run(graph, FuseWidth(), *((tokens(), *branch.sides) if probed else ()))


PASSED = {
    "tensor for all features": _hidden(lambda s, h, g: h * g, normal(3, TOKENS, 1)),
    "number": _hidden(lambda s, h: h * 0.5 - 2.0),
    "own parameter": _hidden(lambda s, h: h * s.gain, gain=lambda: torch.empty(HIDDEN)),
    "own parameter for each token": _hidden(lambda s, h: h + s.shift, shift=lambda: torch.empty(TOKENS, HIDDEN)),
    "squeezed and unsqueezed": _hidden(lambda s, h: h.unsqueeze(0).squeeze(0)),
    "unflattened": _hidden(lambda s, h: h.unflatten(-1, (4, 3)).tanh().view(h.shape)),
    "unflattened to a rest": _hidden(lambda s, h: h.unflatten(-1, (-1, 3)).tanh().view(h.shape)),
    "viewed to a rest": _hidden(lambda s, h: h.view(*h.shape[:2], -1, 3).tanh().view(*h.shape[:2], -1)),
    "batch and tokens merged": _hidden(lambda s, h: h.view(-1, HIDDEN).tanh().view(-1, TOKENS, HIDDEN)),
    "permuted there and back": _hidden(lambda s, h: h.permute(2, 0, 1).tanh().permute(1, 2, 0)),
    "one of several": Branch(
        lambda s, x: s.down(s.up(x).view(*x.shape[:2], 4, 3).select(2, 1)),
        {"up": _up, "down": lambda: nn.Linear(3, WIDTH)},
    ),
    "one piece of several": Branch(
        lambda s, x: s.down(s.up(x).view(*x.shape[:2], 4, 3).unbind(2)[1]),
        {"up": _up, "down": lambda: nn.Linear(3, WIDTH)},
    ),
    "the state's mean beside a projection": Branch(
        lambda s, x: s.down(s.up(x) + x.mean(-1, keepdim=True)), {"up": _up, "down": _down}
    ),
    "scaled by a parameter without dimensions": _out(lambda s, y: y * s.scale, scale=lambda: torch.empty(())),
    "scaled by a parameter of one row": _out(lambda s, y: y * s.scale, scale=lambda: torch.empty(1, 1, WIDTH)),
    "tokens before batch": Branch(
        lambda s, x: s.down(F.gelu(s.up(s.norm(x.transpose(0, 1))))).transpose(0, 1),
        {"norm": lambda: nn.LayerNorm(WIDTH), "up": _up, "down": _down},
    ),
    "an operator on the state before the first linear": Branch(lambda s, x: s.out(torch.sin(x)), {"out": _square}),
    "mask for all heads": _attention(lambda s, m: m, normal(TOKENS, TOKENS)),
    "mask for each head": _attention(lambda s, m: m, normal(HEADS, TOKENS, TOKENS)),
    "mask for each sample and head": _attention(lambda s, m: m, normal(3, HEADS, TOKENS, TOKENS)),
}


@pytest.mark.parametrize("branch", PASSED.values(), ids=PASSED.keys())
def test_branches_pass_through(branch: Branch) -> None:
    graph, fused, record = _fuse(branch)
    inputs = (tokens(), *branch.sides)
    assert record.skipped == ()
    assert len(record.matches) == 1
    before, after = wide_operators(graph), wide_operators(fused)
    assert after == {kind: count // 2 for kind, count in before.items()}
    assert relative_error(fused(*inputs), graph(*inputs)) < 1e-10
    assert wrong_metadata(fused, *inputs) == []


MOVED = {
    "a softmax over hidden values": _hidden(lambda s, h: torch.softmax(h, -1)),
    "a norm of hidden values": _hidden(lambda s, h: s.norm(h), norm=lambda: nn.LayerNorm(HIDDEN)),
    "an rms norm of hidden values": _hidden(lambda s, h: s.norm(h), norm=lambda: nn.RMSNorm(HIDDEN)),
    "a norm over two dimensions": Branch(
        lambda s, x: s.down(F.relu(s.up(s.norm(x)))),
        {"norm": lambda: nn.LayerNorm((TOKENS, WIDTH)), "up": _up, "down": _down},
    ),
    "a norm that is no linear's": Branch(
        lambda s, x: s.down(F.relu(s.norm(x))),
        {"norm": lambda: nn.LayerNorm(WIDTH), "down": lambda: nn.Linear(WIDTH, WIDTH)},
    ),
    "a linear of hidden values": _hidden(lambda s, h: s.middle(h), middle=lambda: nn.Linear(HIDDEN, HIDDEN)),
    "a linear of hidden values without bias": _hidden(
        lambda s, h: s.middle(h), middle=lambda: nn.Linear(HIDDEN, HIDDEN, bias=False)
    ),
    "a gate for each feature": _hidden(lambda s, h, g: h * g, normal(3, TOKENS, HIDDEN)),
    "a gate for each feature and token": _hidden(lambda s, h, g: h * g, normal(TOKENS, HIDDEN)),
    "a parameter of one number": _hidden(lambda s, h: h * s.gain, gain=lambda: torch.empty(1)),
    "a parameter of one column": _hidden(lambda s, h: h * s.gain, gain=lambda: torch.empty(TOKENS, 1)),
    "unequal pieces": _hidden(lambda s, h: torch.tanh(h.split([8, 4], -1)[0]), down=lambda: nn.Linear(8, WIDTH)),
    "one feature": _hidden(lambda s, h: h.select(-1, 0).unsqueeze(-1), down=lambda: nn.Linear(1, WIDTH)),
    "a slice of the features": _hidden(lambda s, h: h[..., 2:6], down=lambda: nn.Linear(4, WIDTH)),
    "halves turned, as in rotary embeddings": _hidden(lambda s, h: torch.cat([-h[..., 6:], h[..., :6]], -1)),
    "stacked and merged": _hidden(lambda s, h: torch.stack([h, -h], -1).mean(-1)),
    "rolled and flipped": _hidden(lambda s, h: torch.roll(h, 3, -1).flip(-1).roll(1, 1)),
    "padded": _hidden(lambda s, h: F.pad(h, (1, 1)), down=lambda: nn.Linear(HIDDEN + 2, WIDTH)),
    "the mean of the features": _hidden(lambda s, h: h - h.mean(-1, keepdim=True)),
    "the mean of the tokens": _hidden(lambda s, h: h * h.mean(1).unsqueeze(1)),
    "gated by one half": _hidden(lambda s, h: F.glu(h, -1), down=lambda: nn.Linear(HIDDEN // 2, WIDTH)),
    "chosen by a condition": _hidden(lambda s, h, c: torch.where(c > 0, h, -h), normal(3, TOKENS, HIDDEN)),
    "one row picked by an index": _hidden(
        lambda s, h, i: h[:, :, i], torch.tensor([3, 1, 2, 5]), down=lambda: nn.Linear(4, WIDTH)
    ),
    "a linear over another dimension": _hidden(
        lambda s, h: s.mix(h.transpose(1, 2)).transpose(1, 2), mix=lambda: nn.Linear(TOKENS, TOKENS)
    ),
    "an out-projection over another dimension": Branch(
        lambda s, x: s.mix(s.up(x).transpose(1, 2)).transpose(1, 2),
        {"up": _square, "mix": lambda: nn.Linear(TOKENS, TOKENS)},
    ),
    "a product of two values": _hidden(lambda s, h: h @ h.transpose(1, 2) @ h),
    "a product with a shared value": _hidden(lambda s, h, m: m @ h, normal(3, TOKENS, TOKENS)),
    "a product added to a shared value": _hidden(
        lambda s, h, m: torch.baddbmm(m, h, h.transpose(1, 2), beta=0.5, alpha=2.0) @ h, normal(3, TOKENS, TOKENS)
    ),
    "one head, unsqueezed and repeated": Branch(
        lambda s, x: s.down(
            s.up(x)
            .view(*x.shape[:2], 1, 4)
            .transpose(1, 2)
            .unsqueeze(2)
            .expand(-1, 1, 2, -1, -1)
            .reshape(-1, 2, TOKENS, 4)
            .transpose(1, 2)
            .flatten(2)
        ),
        {"up": lambda: nn.Linear(WIDTH, 4), "down": _square},
    ),
    "one head, unflattened and flattened": Branch(
        lambda s, x: s.down(
            s.up(x)
            .unflatten(-1, (1, 4))
            .unflatten(2, (1, 1))
            .tanh()
            .flatten(1, 3)
            .transpose(1, 2)
            .sigmoid()
            .transpose(1, 2)
            .flatten(2)
        ),
        {"up": lambda: nn.Linear(WIDTH, 4), "down": lambda: nn.Linear(4, WIDTH)},
    ),
    "attention without heads": Branch(
        lambda s, x: s.out(F.scaled_dot_product_attention(s.query(x), s.key(x), s.value(x))),
        dict.fromkeys(("query", "key", "value", "out"), _square),
    ),
    "a mask of its own": _attention(lambda s: s.own, own=lambda: torch.empty(TOKENS, TOKENS)),
    "a mask of its own for each head": _attention(
        lambda s, m: s.own + m, normal(3, 1, TOKENS, TOKENS), own=lambda: torch.empty(HEADS, TOKENS, TOKENS)
    ),
    "another operator at the end": _out(lambda s, y: torch.tanh(y)),
    "a scale that is an input": _out(lambda s, y, g: y * g, normal(WIDTH)),
    "a scale for each token": _out(lambda s, y: y * s.scale, scale=lambda: torch.empty(TOKENS, 1)),
    "a number that divides": _out(lambda s, y: y / 3.0),
    "features that move at the end": _out(lambda s, y: y.transpose(1, 2).reshape(y.shape)),
    "nothing of its own before the sum": Branch(lambda s, x: s.up(x), {"up": _square}),
}


def _products(graph: fx.GraphModule) -> int:
    return sum(gemms(node) for node in graph.graph.nodes)


@pytest.mark.parametrize("branch", MOVED.values(), ids=MOVED.keys())
def test_branches_are_moved_where_an_operator_needs_the_dimension_in_which_they_lie(branch: Branch) -> None:
    graph, fused, record = _fuse(branch)
    assert record.skipped == ()
    assert len(record.matches) == 1
    assert _products(fused) == _products(graph) // 2
    for batch in (1, 3):
        sides = [
            side[:batch] if side.ndim and len(side) == 3 and side.is_floating_point() else side for side in branch.sides
        ]
        if batch != 3 and any(len(side) == 3 and side.ndim == 1 for side in branch.sides):
            continue
        inputs = (tokens(batch), *sides)
        assert relative_error(fused(*inputs), graph(*inputs)) < 1e-10
        assert wrong_metadata(fused, *inputs) == []


REFUSED = {
    "an operator without a wide form": (
        _hidden(lambda s, h: torch.sinh(h)),
        "sinh is aten.sinh.default, for which no wide form is known",
    ),
    "a dropout of the state in training mode": (
        Branch(lambda s, x: s.up(F.dropout(x, 0.5, training=True)), {"up": _square}),
        "dropout (aten.dropout.default) draws random values, which the branches must not share",
    ),
    "a dropout of a parameter in training mode": (
        _hidden(lambda s, h: h * F.dropout(s.gain, 0.5, training=True), gain=lambda: torch.empty(HIDDEN)),
        "dropout (aten.dropout.default) draws random values, which the branches must not share",
    ),
    "a weight that is no parameter": (
        Branch(lambda s, x, w: F.linear(F.relu(s.up(x)), w).tanh(), {"up": _square}, (normal(WIDTH, WIDTH),)),
        "linear_1 has the computed weight inputs_1",
    ),
    "a reduction of everything": (
        _hidden(lambda s, h: h * h.sum((0, 1, 2), keepdim=True)),
        "sum_1 (aten.sum.dim_IntList) leaves no dimension in which the branches could lie",
    ),
    "an index into two dimensions": (
        _hidden(lambda s, h, i: h[:, i, i].unsqueeze(-1).expand(-1, -1, HIDDEN), torch.tensor([3, 1, 2, 0, 4])),
        "index indexes 2 dimensions at once",
    ),
}


@pytest.mark.parametrize(("branch", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_branches_that_cannot_be_made_wide_stay_with_the_node_and_the_value_in_the_reason(
    branch: Branch, reason: str
) -> None:
    graph, fused, record = _fuse(branch, probed=False)
    assert record.matches == ()
    assert [skip.reason for skip in record.skipped] == [reason, reason]
    assert text(fused) == text(graph)


def test_every_refused_branch_is_named() -> None:
    _, _, record = _fuse(REFUSED["an operator without a wide form"][0])
    assert [skip.node for skip in record.skipped] == ["linear_1", "linear_3"]


def test_a_gain_that_is_no_parameter_is_refused_or_kept() -> None:
    branch = Branch(
        lambda s, x, gain: s.out(F.layer_norm(x, (WIDTH,), gain, s.shift)),
        {"shift": lambda: torch.empty(WIDTH), "out": _square},
        (normal(WIDTH),),
    )
    _fuse(branch)


@pytest.mark.parametrize("scale", [None, normal(4, seed=6)])
@pytest.mark.parametrize("gain", [None, normal(WIDTH, seed=2)])
@pytest.mark.parametrize("shift", [None, normal(WIDTH, seed=3)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_folded_linear_reads_the_normalised_state(gain: Any, shift: Any, scale: Any, bias: bool) -> None:
    linear = randomised(nn.Linear(WIDTH, 4, bias=bias))
    module = graph_of(linear, normal(3, WIDTH))
    node = next(iter(module.graph.find_nodes(op="call_function", target=LINEAR)))
    weight, total = folded_weight(module, node, gain, scale), folded_bias(module, node, shift, scale)
    x = normal(3, WIDTH, seed=4)
    expected = linear((x if gain is None else x * gain) + (0 if shift is None else shift))
    expected = expected if scale is None else expected * scale
    assert relative_error(F.linear(x, weight, total), expected) < 1e-14


def test_a_gain_of_the_weights_dtype_is_folded_as_exactly_as_one_in_float64() -> None:
    linear = randomised(nn.Linear(WIDTH, 4)).float()
    module = graph_of(linear, normal(3, WIDTH).float())
    node = next(iter(module.graph.find_nodes(op="call_function", target=LINEAR)))
    gain = normal(WIDTH, seed=2).float()
    assert torch.equal(folded_weight(module, node, gain), folded_weight(module, node, gain.double()))
