"""Operators that act along dimensions which they name, and those that pick or put values: one for all branches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.clean.normalize_synonyms import NormalizeSynonyms
from passes.clean.remove_identities import RemoveIdentities
from passes.fusion.fuse_width import FuseWidth
from passes.graph.operators import gemms
from tests.passes.fusion.rules.laid import Forward, Own, check
from tests.passes.models import (
    HIDDEN,
    TOKENS,
    WIDTH,
    Function,
    normal,
    relative_error,
    run,
    text,
    tokens,
    wrong_metadata,
)
from tests.passes.term_functions import Branch, fuse, hidden, up
from tests.sampled import sampled

PLACES = torch.tensor([3, 1, 2, 0])


def _picture(function: object) -> Branch:
    """`function` of hidden channels on 4 x 3 pixels between linears."""

    def forward(self: Function, h: Tensor) -> Tensor:
        return function(self, h.view(-1, TOKENS, 4, 3))  # type: ignore[operator]

    return hidden(lambda s, h: forward(s, h).reshape(h.shape[0], TOKENS, -1)[..., :HIDDEN])


def _pixels(function: object, **parts: object) -> Branch:
    """`function` of a map with 8 channels and 2 x 2 pixels that a convolution makes."""

    def forward(self: Function, x: Tensor) -> Tensor:
        image = self.inner(x[:, :4].transpose(1, 2).reshape(-1, WIDTH, 2, 2))
        made: Tensor = function(self, image)  # type: ignore[operator]
        y: Tensor = self.outer(made.flatten(1)[:, :WIDTH])[:, None]
        return y.expand(x.shape)

    made = {"inner": lambda: nn.Conv2d(WIDTH, 8, 1), "outer": lambda: nn.Linear(WIDTH, WIDTH), **parts}
    return Branch(forward, made)  # type: ignore[arg-type]


X, IMAGE, SQUARE = Own((2, 4, 6)), Own((2, 4, 4, 6)), Own((2, 4, 4))
ORDERED = Own((2, 4, 6), lambda x: x.argsort(-1))

# each alone, with the branches in every place
ALONE: dict[str, tuple[Forward, Own]] = {
    "log_softmax": (lambda x: x.log_softmax(1), X),
    "running product": (lambda x: x.cumprod(-1), X),
    "running logarithm of sums": (lambda x: x.logcumsumexp(0), X),
    "order": (lambda x: x.argsort(1), X),
    "spectrum": (lambda x: torch.fft.fft(x, dim=1), X),
    "largest place": (lambda x: x.argmax(-1), X),
    "smallest place kept": (lambda x: x.argmin(1, keepdim=True), X),
    "product": (lambda x: x.prod(0), X),
    "any": (lambda x: (x > 0).any(-1), X),
    "all": (lambda x: (x > 0).all(1, keepdim=True), X),
    "logarithm of a sum": (lambda x: x.logsumexp((0, 2)), X),
    "length": (lambda x: torch.linalg.vector_norm(x, dim=-1), X),
    "largest values": (lambda x: x.topk(2, 1)[0], X),
    "sorted": (lambda x: x.sort(0, descending=True)[1], X),
    "running maximum": (lambda x: x.cummax(-1)[0], X),
    "largest and where": (lambda x: x.max(1)[1], X),
    "median": (lambda x: x.median(-1, keepdim=True)[0], X),
    "windows": (lambda x: x.unfold(1, 2, 2), X),
    "windows of the last": (lambda x: x.unfold(-1, 3, 1), X),
    "classes": (lambda x: F.one_hot(x, 6), ORDERED),
    "complex parts": (lambda x: torch.view_as_real(torch.fft.rfft(x, dim=1)), X),
    "pairs as complex numbers": (lambda x: torch.view_as_complex(x.unflatten(-1, (3, 2))).imag, X),
    "diagonal": (lambda x: x.diagonal(0, 1, 2), SQUARE),
    "diagonal ahead": (lambda x: x.diagonal(1, 2, 1), SQUARE),
    "triangle": (lambda x: x.tril(-1), SQUARE),
    "exponential": (torch.linalg.matrix_exp, SQUARE),
    "pixels from channels": (lambda x: F.pixel_shuffle(x, 2), IMAGE),
    "channels from pixels": (lambda x: F.pixel_unshuffle(x, 2), IMAGE),
    "shuffled channels": (lambda x: F.channel_shuffle(x, 2), IMAGE),
    "patches": (lambda x: F.unfold(x, 2), IMAGE),
    "larger by neighbours": (lambda x: F.interpolate(x, scale_factor=2), IMAGE),
    "larger by interpolation": (lambda x: F.interpolate(x, (3, 5), mode="bilinear"), IMAGE),
    "pooled volume": (lambda x: F.max_pool3d(x, 2), Own((1, 2, 2, 4, 2))),
    "largest to one": (lambda x: F.adaptive_max_pool2d(x, 1, return_indices=True)[0], IMAGE),
}


@pytest.mark.parametrize("name", sampled([*ALONE], 4))
def test_each_branch_has_its_value_wherever_the_branches_lie(name: str) -> None:
    forward, given = ALONE[name]
    check(forward, given)


WIDE = {
    "log_softmax": hidden(lambda s, h: h.log_softmax(-1)),
    "running product": hidden(lambda s, h: h.cumprod(1)),
    "running logarithm of sums": hidden(lambda s, h: h.logcumsumexp(-1)),
    "order": hidden(lambda s, h: h.gather(-1, h.argsort(-1))),
    "largest place": hidden(lambda s, h: h * h.argmax(-1, keepdim=True)),
    "smallest place of the tokens": hidden(lambda s, h: h * h.argmin(1).unsqueeze(1)),
    "product": hidden(lambda s, h: h * h.prod(-1, keepdim=True)),
    "any and all": hidden(lambda s, h: h * (h > 0).any(-1, keepdim=True) + (h > 0).all(1).unsqueeze(1)),
    "logarithm of a sum": hidden(lambda s, h: h - h.logsumexp(-1, keepdim=True)),
    "unit length": hidden(lambda s, h: F.normalize(h, dim=-1)),
    "spread": hidden(lambda s, h: (h - h.mean(-1, keepdim=True)) / (h.std(-1, keepdim=True) + 1.0)),
    "largest values": hidden(lambda s, h: h.topk(4, -1)[0], down=lambda: nn.Linear(4, WIDTH)),
    "largest values and where": hidden(lambda s, h: torch.add(*h.topk(4, -1)), down=lambda: nn.Linear(4, WIDTH)),
    "largest value of each row": hidden(lambda s, h: h * h.max(-1, keepdim=True)[0]),
    "largest value and where": hidden(lambda s, h: h + torch.add(*h.max(1)).unsqueeze(1)),
    "sorted": hidden(lambda s, h: h.sort(-1)[0]),
    "median": hidden(lambda s, h: h - h.median(-1, keepdim=True)[0]),
    "running maximum": hidden(lambda s, h: h.cummax(1)[0]),
    "windows": hidden(lambda s, h: h.unfold(-1, 4, 4).mean(-1), down=lambda: nn.Linear(3, WIDTH)),
    "windows of tokens": hidden(lambda s, h: h.unfold(1, TOKENS, 1).mean(-1).expand(h.shape)),
    "triangle": hidden(lambda s, h: h.tril() + h.triu(1)),
    "diagonal": hidden(lambda s, h: h + h.diagonal(0, 1, 2).mean(-1)[:, None, None]),
    "classes": hidden(lambda s, h: h * F.one_hot(h.argmax(-1), HIDDEN)),
    "spectrum": hidden(lambda s, h: torch.fft.fft(torch.fft.fft(h, dim=-1), dim=1).real),
    "filtered": hidden(lambda s, h: torch.fft.irfft(torch.fft.rfft(h, dim=1) * 0.5, n=TOKENS, dim=1)),
    "pairs as complex numbers": hidden(
        lambda s, h: torch.view_as_real(torch.view_as_complex(h.view(*h.shape[:2], 6, 2)) * 1j).flatten(2)
    ),
    "pointwise without a name of its own": hidden(lambda s, h: torch.sinh(h).nan_to_num() + torch.hypot(h, h.erfc())),
    "interpolated by a tensor": hidden(lambda s, h: torch.lerp(h, h.cos(), h.sigmoid())),
    "indexed in two dimensions": hidden(
        lambda s, h, i: h[:, i, i].unsqueeze(-1).expand(-1, -1, HIDDEN), torch.tensor([3, 1, 2, 0, 4])
    ),
    "indexed in dimensions that are not neighbours": Branch(
        lambda s, x, i: s.down(s.up(x).view(-1, TOKENS, 4, 3)[:, i, :, 1:].flatten(2)[:, :1]).expand(x.shape),
        {"up": up, "down": lambda: nn.Linear(8, WIDTH)},
        (PLACES,),
    ),
    "picked where the branches say": hidden(
        lambda s, h: h.gather(-1, h.argsort(-1)[..., :4]), down=lambda: nn.Linear(4, WIDTH)
    ),
    "put by an index": hidden(lambda s, h: h.scatter(-1, h.argsort(-1), h.cos())),
    "a number put by an index": hidden(lambda s, h: h.scatter(-1, h.argsort(-1)[..., :4], 0.5)),
    "added by an index": hidden(lambda s, h: torch.zeros_like(h).scatter_add(1, (h > 0).long(), h)),
    "rows added": hidden(lambda s, h, i: h.index_add(1, i, h[:, :4].cos()), PLACES),
    "columns copied": hidden(lambda s, h, i: h.index_copy(-1, i, h[..., :4].cos()), PLACES),
    "rows filled": hidden(lambda s, h, i: h.index_fill(1, i, 0.5), PLACES),
    "a slice put in": hidden(lambda s, h: h.slice_scatter(h[..., :4].cos(), -1, 2, 6)),
    "distances": hidden(lambda s, h: torch.cdist(h, h) @ h),
    "a table at places of the branch": hidden(
        lambda s, h: h + s.table(h.argmax(-1)), table=lambda: nn.Embedding(HIDDEN, HIDDEN)
    ),
    "a table at shared places": hidden(
        lambda s, h, i: h + s.table(i), torch.tensor([3, 1, 2, 0, 4]), table=lambda: nn.Embedding(HIDDEN, HIDDEN)
    ),
    "a weight that is computed": hidden(lambda s, h, w: F.linear(h, w) @ w, normal(HIDDEN, HIDDEN)),
    "a weight that each branch computes": hidden(
        lambda s, h: F.linear(h, F.relu(s.middle(s.code)), s.code[0]),
        middle=lambda: nn.Linear(HIDDEN, HIDDEN),
        code=lambda: torch.empty(HIDDEN, HIDDEN),
    ),
    "parametric slope": hidden(lambda s, h: s.act(h), act=nn.PReLU),
    "parametric slopes of channels": _pixels(lambda s, h: s.act(h), act=lambda: nn.PReLU(8)),
    "pixels from channels": _pixels(lambda s, h: F.pixel_shuffle(h, 2)),
    "shuffled channels": _pixels(lambda s, h: F.channel_shuffle(h, 2)),
    "larger by neighbours": _pixels(lambda s, h: F.interpolate(h, scale_factor=2)),
    "larger by interpolation": _pixels(lambda s, h: F.interpolate(h, size=(3, 5), mode="bilinear")),
    "patches": _pixels(lambda s, h: F.unfold(h, 2)),
    "norm of each channel": _pixels(lambda s, h: s.norm(h), norm=lambda: nn.InstanceNorm2d(8, affine=True)),
    "transposed convolution": _pixels(lambda s, h: s.up(h), up=lambda: nn.ConvTranspose2d(8, 4, 2, 2)),
    "transposed convolution in groups": _pixels(
        lambda s, h: s.up(F.relu(h)), up=lambda: nn.ConvTranspose2d(8, 4, 3, 2, 1, 1, groups=2)
    ),
    "transposed convolution of the state": Branch(
        lambda s, x: s.down(F.gelu(s.up(x.transpose(1, 2))))[..., :TOKENS].transpose(1, 2),
        {
            "up": lambda: nn.ConvTranspose1d(WIDTH, 6, 3, 1, 1, groups=2),
            "down": lambda: nn.Conv1d(6, WIDTH, 1),
        },
    ),
}


@pytest.mark.parametrize("branch", sampled(WIDE, 18))
def test_the_operator_runs_once_for_all_branches(branch: Branch) -> None:
    graph, fused, record = fuse(branch, cleaning=(NormalizeSynonyms(), RemoveIdentities()))
    assert record.skipped == ()
    assert len(record.matches) == 1
    assert "in each branch" not in record.matches[0]
    counts = [sum(gemms(node) for node in g.graph.nodes) for g in (graph, fused)]
    assert counts[1] <= counts[0] // 2
    for batch in (3, 1, 5):
        inputs = (tokens(batch), *branch.sides)
        assert relative_error(fused(*inputs), graph(*inputs)) < 1e-10
        assert wrong_metadata(fused, *inputs) == []
    again, second = run(fused, FuseWidth())
    assert second.matches == ()
    assert text(again) == text(fused)


LEFT = {
    "places that differ between the branches": (
        hidden(lambda s, h: h[:, s.own.argsort()[:TOKENS]], own=lambda: torch.empty(TOKENS)),
        "index",
    ),
    "samples at places of the branch": (
        _pixels(lambda s, h: F.grid_sample(h, h[:, :2].permute(0, 2, 3, 1).tanh(), align_corners=True)),
        "grid_sampler",
    ),
}


@pytest.mark.parametrize(("branch", "name"), LEFT.values(), ids=LEFT.keys())
def test_what_the_branches_cannot_share_runs_in_each(branch: Branch, name: str) -> None:
    graph, fused, record = fuse(branch, free=False)
    assert f"({name} in each branch)" in record.matches[0]
    assert relative_error(fused(tokens()), graph(tokens())) < 1e-10
