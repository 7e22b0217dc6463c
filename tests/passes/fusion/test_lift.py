"""Rules of lifting: which operators pass the branches through, and the sentence where one cannot."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.fusion import rules
from passes.fusion.lift import RULES
from passes.graph.operators import gemms
from tests.passes.models import (
    HEADS,
    HIDDEN,
    TOKENS,
    WIDTH,
    normal,
    relative_error,
    text,
    tokens,
    wide_operators,
    wrong_metadata,
)
from tests.passes.term_functions import Branch, attention, down, fuse, hidden, out, square, up
from tests.sampled import sampled

HEAD = WIDTH // HEADS
SDPA = "scaled_dot_product_attention"


PASSED = {
    "tensor for all features": hidden(lambda s, h, g: h * g, normal(3, TOKENS, 1)),
    "number": hidden(lambda s, h: h * 0.5 - 2.0),
    "own parameter": hidden(lambda s, h: h * s.gain, gain=lambda: torch.empty(HIDDEN)),
    "own parameter for each token": hidden(lambda s, h: h + s.shift, shift=lambda: torch.empty(TOKENS, HIDDEN)),
    "squeezed and unsqueezed": hidden(lambda s, h: h.unsqueeze(0).squeeze(0)),
    "unflattened": hidden(lambda s, h: h.unflatten(-1, (4, 3)).tanh().view(h.shape)),
    "unflattened to a rest": hidden(lambda s, h: h.unflatten(-1, (-1, 3)).tanh().view(h.shape)),
    "viewed to a rest": hidden(lambda s, h: h.view(*h.shape[:2], -1, 3).tanh().view(*h.shape[:2], -1)),
    "batch and tokens merged": hidden(lambda s, h: h.view(-1, HIDDEN).tanh().view(-1, TOKENS, HIDDEN)),
    "permuted there and back": hidden(lambda s, h: h.permute(2, 0, 1).tanh().permute(1, 2, 0)),
    "one of several": Branch(
        lambda s, x: s.down(s.up(x).view(*x.shape[:2], 4, 3).select(2, 1)),
        {"up": up, "down": lambda: nn.Linear(3, WIDTH)},
    ),
    "one piece of several": Branch(
        lambda s, x: s.down(s.up(x).view(*x.shape[:2], 4, 3).unbind(2)[1]),
        {"up": up, "down": lambda: nn.Linear(3, WIDTH)},
    ),
    "the state's mean beside a projection": Branch(
        lambda s, x: s.down(s.up(x) + x.mean(-1, keepdim=True)), {"up": up, "down": down}
    ),
    "scaled by a parameter without dimensions": out(lambda s, y: y * s.scale, scale=lambda: torch.empty(())),
    "scaled by a parameter of one row": out(lambda s, y: y * s.scale, scale=lambda: torch.empty(1, 1, WIDTH)),
    "tokens before batch": Branch(
        lambda s, x: s.down(F.gelu(s.up(s.norm(x.transpose(0, 1))))).transpose(0, 1),
        {"norm": lambda: nn.LayerNorm(WIDTH), "up": up, "down": down},
    ),
    "an operator on the state before the first linear": Branch(lambda s, x: s.out(torch.sin(x)), {"out": square}),
    "mask for all heads": attention(lambda s, m: m, normal(TOKENS, TOKENS)),
    "mask for each head": attention(lambda s, m: m, normal(HEADS, TOKENS, TOKENS)),
    "mask for each sample and head": attention(lambda s, m: m, normal(3, HEADS, TOKENS, TOKENS)),
}


@pytest.mark.parametrize("branch", sampled(PASSED, 10))
def test_branches_pass_through(branch: Branch) -> None:
    graph, fused, record = fuse(branch)
    inputs = (tokens(), *branch.sides)
    assert record.skipped == ()
    assert len(record.matches) == 1
    before, after = wide_operators(graph), wide_operators(fused)
    assert after == {kind: count // 2 for kind, count in before.items()}
    assert relative_error(fused(*inputs), graph(*inputs)) < 1e-10
    assert wrong_metadata(fused, *inputs) == []


MOVED = {
    "a softmax over hidden values": hidden(lambda s, h: torch.softmax(h, -1)),
    "a norm of hidden values": hidden(lambda s, h: s.norm(h), norm=lambda: nn.LayerNorm(HIDDEN)),
    "an rms norm of hidden values": hidden(lambda s, h: s.norm(h), norm=lambda: nn.RMSNorm(HIDDEN)),
    "a norm over two dimensions": Branch(
        lambda s, x: s.down(F.relu(s.up(s.norm(x)))),
        {"norm": lambda: nn.LayerNorm((TOKENS, WIDTH)), "up": up, "down": down},
    ),
    "a norm that is no linear's": Branch(
        lambda s, x: s.down(F.relu(s.norm(x))),
        {"norm": lambda: nn.LayerNorm(WIDTH), "down": lambda: nn.Linear(WIDTH, WIDTH)},
    ),
    "a linear of hidden values": hidden(lambda s, h: s.middle(h), middle=lambda: nn.Linear(HIDDEN, HIDDEN)),
    "a linear of hidden values without bias": hidden(
        lambda s, h: s.middle(h), middle=lambda: nn.Linear(HIDDEN, HIDDEN, bias=False)
    ),
    "a gate for each feature": hidden(lambda s, h, g: h * g, normal(3, TOKENS, HIDDEN)),
    "a gate for each feature and token": hidden(lambda s, h, g: h * g, normal(TOKENS, HIDDEN)),
    "a parameter of one number": hidden(lambda s, h: h * s.gain, gain=lambda: torch.empty(1)),
    "a parameter of one column": hidden(lambda s, h: h * s.gain, gain=lambda: torch.empty(TOKENS, 1)),
    "unequal pieces": hidden(lambda s, h: torch.tanh(h.split([8, 4], -1)[0]), down=lambda: nn.Linear(8, WIDTH)),
    "one feature": hidden(lambda s, h: h.select(-1, 0).unsqueeze(-1), down=lambda: nn.Linear(1, WIDTH)),
    "a slice of the features": hidden(lambda s, h: h[..., 2:6], down=lambda: nn.Linear(4, WIDTH)),
    "halves turned, as in rotary embeddings": hidden(lambda s, h: torch.cat([-h[..., 6:], h[..., :6]], -1)),
    "stacked and merged": hidden(lambda s, h: torch.stack([h, -h], -1).mean(-1)),
    "rolled and flipped": hidden(lambda s, h: torch.roll(h, 3, -1).flip(-1).roll(1, 1)),
    "padded": hidden(lambda s, h: F.pad(h, (1, 1)), down=lambda: nn.Linear(HIDDEN + 2, WIDTH)),
    "the mean of the features": hidden(lambda s, h: h - h.mean(-1, keepdim=True)),
    "the mean of the tokens": hidden(lambda s, h: h * h.mean(1).unsqueeze(1)),
    "gated by one half": hidden(lambda s, h: F.glu(h, -1), down=lambda: nn.Linear(HIDDEN // 2, WIDTH)),
    "chosen by a condition": hidden(lambda s, h, c: torch.where(c > 0, h, -h), normal(3, TOKENS, HIDDEN)),
    "one row picked by an index": hidden(
        lambda s, h, i: h[:, :, i], torch.tensor([3, 1, 2, 5]), down=lambda: nn.Linear(4, WIDTH)
    ),
    "a linear over another dimension": hidden(
        lambda s, h: s.mix(h.transpose(1, 2)).transpose(1, 2), mix=lambda: nn.Linear(TOKENS, TOKENS)
    ),
    "an out-projection over another dimension": Branch(
        lambda s, x: s.mix(s.up(x).transpose(1, 2)).transpose(1, 2),
        {"up": square, "mix": lambda: nn.Linear(TOKENS, TOKENS)},
    ),
    "a product of two values": hidden(lambda s, h: h @ h.transpose(1, 2) @ h),
    "a product with a shared value": hidden(lambda s, h, m: m @ h, normal(3, TOKENS, TOKENS)),
    "a product added to a shared value": hidden(
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
        {"up": lambda: nn.Linear(WIDTH, 4), "down": square},
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
        dict.fromkeys(("query", "key", "value", "out"), square),
    ),
    "a mask of its own": attention(lambda s: s.own, own=lambda: torch.empty(TOKENS, TOKENS)),
    "a mask of its own for each head": attention(
        lambda s, m: s.own + m, normal(3, 1, TOKENS, TOKENS), own=lambda: torch.empty(HEADS, TOKENS, TOKENS)
    ),
    "another operator at the end": out(lambda s, y: torch.tanh(y)),
    "a scale that is an input": out(lambda s, y, g: y * g, normal(WIDTH)),
    "a scale for each token": out(lambda s, y: y * s.scale, scale=lambda: torch.empty(TOKENS, 1)),
    "a number that divides": out(lambda s, y: y / 3.0),
    "features that move at the end": out(lambda s, y: y.transpose(1, 2).reshape(y.shape)),
    "nothing of its own before the sum": Branch(lambda s, x: s.up(x), {"up": square}),
}


def _products(graph: fx.GraphModule) -> int:
    return sum(gemms(node) for node in graph.graph.nodes)


@pytest.mark.parametrize("branch", sampled(MOVED, 12))
def test_branches_are_moved_where_an_operator_needs_the_dimension_in_which_they_lie(branch: Branch) -> None:
    graph, fused, record = fuse(branch)
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
    "a dropout of the state in training mode": (
        Branch(lambda s, x: s.up(F.dropout(x, 0.5, training=True)), {"up": square}),
        "dropout (aten.dropout.default) draws random values, which the branches must not share",
    ),
    "a dropout of a parameter in training mode": (
        hidden(lambda s, h: h * F.dropout(s.gain, 0.5, training=True), gain=lambda: torch.empty(HIDDEN)),
        "dropout (aten.dropout.default) draws random values, which the branches must not share",
    ),
}


@pytest.mark.parametrize(("branch", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_branches_that_cannot_be_made_wide_stay_with_the_node_and_the_value_in_the_reason(
    branch: Branch, reason: str
) -> None:
    graph, fused, record = fuse(branch, probed=False, free=False)
    assert record.matches == ()
    assert [skip.reason for skip in record.skipped] == [reason, reason]
    assert text(fused) == text(graph)


def test_every_refused_branch_is_named() -> None:
    _, _, record = fuse(REFUSED["a dropout of a parameter in training mode"][0], probed=False, free=False)
    assert [skip.node for skip in record.skipped] == ["linear_1", "linear_3"]


def test_a_gain_that_is_no_parameter_is_refused_or_kept() -> None:
    branch = Branch(
        lambda s, x, gain: s.out(F.layer_norm(x, (WIDTH,), gain, s.shift)),
        {"shift": lambda: torch.empty(WIDTH), "out": square},
        (normal(WIDTH),),
    )
    fuse(branch)


def test_no_operator_has_two_rules() -> None:
    tables = [importlib.import_module(f"{rules.__name__}.{info.name}") for info in pkgutil.iter_modules(rules.__path__)]
    assert sum(len(getattr(table, "RULES", ())) for table in tables) == len(RULES)
