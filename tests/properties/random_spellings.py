"""Residual sums in other spellings than x + f, chosen by what else was drawn, so that this stays as it is."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

Spelling = Literal[
    "add",
    "sub",
    "rsub",
    "alpha",
    "lerp",
    "gated",
    "stack",
    "mean",
    "cat",
    "scaled",
    "halved",
    "negated",
    "copied",
    "scaled after",
    "cut",
]

_SUMS: dict[Spelling, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda x, f: x + f,
    "sub": lambda x, f: x - f,
    "rsub": lambda x, f: torch.rsub(f, x, alpha=2),
    "alpha": lambda x, f: torch.add(x, f, alpha=0.5),
    "lerp": lambda x, f: torch.lerp(x, f, 0.3),
    "gated": lambda x, f: torch.addcmul(x, f, torch.sigmoid(f), value=0.5),
    "stack": lambda x, f: torch.stack([x, f], -1).sum(-1),
    "mean": lambda x, f: torch.stack([x, f]).mean(0),
    "cat": lambda x, f: torch.cat([x[None], f[None]]).sum(0),
    "scaled": lambda x, f: 0.9 * x + f,
    "halved": lambda x, f: x / 2 + f,
    "negated": lambda x, f: f - x,
    "copied": lambda x, f: x.clone().add_(f),
    "cut": lambda x, f: torch.cat([x[:, :2], x[:, 2:]], 1) + f,
    "scaled after": lambda x, f: (x + f) / 2**0.5,
}


def spelled(spelling: Spelling, x: Tensor, f: Tensor) -> Tensor:
    """The state after a term that computes f."""
    return _SUMS[spelling](x, f)


def spelling_of(drawn: object) -> Spelling:
    """An add for half of what may be drawn."""
    generator = random.Random(repr(drawn))
    return "add" if generator.random() < 0.5 else generator.choice(get_args(Spelling))
