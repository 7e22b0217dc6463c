"""Layers that the hand-written networks share: attention and MLP on (batch, tokens, width), small convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from benchmarks.zoo.entry import HEADS, HIDDEN, WIDTH

__all__ = ["Attention", "Chain", "attend", "mlp"]


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int = HEADS) -> Tensor:
    """Attention on (batch, tokens, width), the heads cut from the width."""
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def mlp(width: int = WIDTH, *, norm: bool = True, hidden: int = HIDDEN) -> nn.Sequential:
    """Linear, GELU, linear, behind a LayerNorm of its own or none."""
    layers = [nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)]
    return nn.Sequential(nn.LayerNorm(width), *layers) if norm else nn.Sequential(*layers)


class Attention(nn.Module):
    """Self-attention, or attention to `context` where that is given."""

    def __init__(self, width: int = WIDTH, *, norm: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(batch, tokens, width) to the same."""
        y = self.norm(x)
        read = y if context is None else context
        result: Tensor = self.out(attend(self.q(y), self.k(read), self.v(read)))
        return result


class Chain(nn.Module):
    """A stem, x + f(x) for each f, a head: the frame of most networks here."""

    def __init__(self, stem: nn.Module, terms: list[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.stem, self.terms, self.head = stem, nn.ModuleList(terms), head

    def forward(self, x: Tensor) -> Tensor:
        """Any shape that the stem takes."""
        x = self.stem(x)
        for term in self.terms:
            x = x + term(x)
        result: Tensor = self.head(x)
        return result


def patches(images: Tensor, size: int) -> Tensor:
    """(batch, channels, height, width) to (batch, tokens, channels of a patch)."""
    return torch.nn.functional.unfold(images, size, stride=size).transpose(1, 2)
