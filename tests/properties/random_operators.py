"""Operators between the layers of random terms, chosen by what else was drawn, so that this stays as it is.

Some have several spellings, some a wide form of their own, and some have none, so that each branch runs them by itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

SALT = "operators 0"  # other numbers than those that choose a spelling

Operator = Literal[
    "none",
    "log softmax",
    "sorted",
    "largest",
    "few largest",
    "unit length",
    "standardised",
    "triangle",
    "swapped",
    "as another",
    "einsum",
    "gathered",
    "scattered",
    "pieces",
    "interpolated",
    "turned",
    "renormed",
    "largest of all",
]
Einsum = Literal["none", "bhid", "bihd", "ellipsis", "implicit"]

_OPERATORS: dict[Operator, Callable[[Tensor], Tensor]] = {  # of hidden values (batch, tokens, features)
    "none": lambda h: h,
    "log softmax": lambda h: h.log_softmax(-1),
    "sorted": lambda h: h.sort(-1)[0],
    "largest": lambda h: h - h.max(-1, keepdim=True)[0],
    "few largest": lambda h: h * h.topk(2, -1)[0].sum(-1, keepdim=True),
    "unit length": lambda h: F.normalize(h, dim=-1),
    "standardised": lambda h: (h - h.mean(-1, keepdim=True)) / (h.std(-1, keepdim=True) + 1.0),
    "triangle": lambda h: h.tril(),
    "swapped": lambda h: h.swapaxes(1, 2).cumsum(-1).movedim(1, -1).contiguous(),  # a later view needs rows
    "as another": lambda h: h.flatten(1).view_as(h) + h[:, :1].expand_as(h),
    "einsum": lambda h: torch.einsum("bid,bjd,bje->bie", h, h, h) / h.shape[-1],
    "gathered": lambda h: h.gather(-1, h.argsort(-1)),
    "scattered": lambda h: h.scatter(-1, h.argsort(-1), h.sort(-1)[0].cos()),  # equal values in any order
    "pieces": lambda h: torch.cat(h.tensor_split((1, 3), -1)[::-1], -1),
    "interpolated": lambda h: torch.addcmul(torch.lerp(h, h.cos(), 0.3), h, h.sigmoid(), value=0.5),
    "turned": lambda h: torch.rot90(h, 2, (1, 2)),
    "renormed": lambda h: torch.renorm(h, 2, 2, 1.0),
    "largest of all": lambda h: h / (1.0 + h.abs().flatten(1).max(-1)[0].view(-1, 1, 1)),
}


def operated(operator: Operator, hidden: Tensor) -> Tensor:
    """The operator on hidden values."""
    return _OPERATORS[operator](hidden)


def products(spelling: Einsum, query: Tensor, key: Tensor) -> Tensor:
    """Products of all queries and keys, of (batch, heads, tokens, size) each."""
    if spelling == "bhid":
        return torch.einsum("bhid,bhjd->bhij", query, key)
    if spelling == "bihd":
        return torch.einsum("bihd,bjhd->bhij", query.transpose(1, 2), key.transpose(1, 2))
    if spelling == "ellipsis":
        return torch.einsum("...id,...jd->...ij", query, key)
    if spelling == "implicit":
        return torch.einsum("abid,abjd->abij", query, key)
    return torch.matmul(query, key.transpose(-2, -1))


def operator_of(drawn: object) -> Operator:
    """None for a third of what may be drawn."""
    generator = random.Random(repr((drawn, SALT)))
    return "none" if generator.random() < 0.3 else generator.choice(get_args(Operator))


def einsum_of(drawn: object) -> Einsum:
    """A matrix product for half of what may be drawn."""
    generator = random.Random(repr((drawn, SALT)))
    return "none" if generator.random() < 0.5 else generator.choice(get_args(Einsum))


def is_chosen(drawn: object, share: float) -> bool:
    """True for a share of what may be drawn."""
    return random.Random(repr((drawn, share, SALT))).random() < share
