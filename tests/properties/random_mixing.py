"""Terms without parameters, which run beside the others and stay as they are: mixing of tokens as FNet writes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from tests.properties.random_token_terms import Sides

MixKind = Literal["fourier", "shift", "pool"]


@dataclass(frozen=True)
class MixSpec:
    """A map of states (batch, TOKENS, width) that has no parameters."""

    kind: MixKind

    def build(self, width: int) -> nn.Module:
        """The module on (batch, TOKENS, width) and `Sides`."""
        return Mixing(self.kind)

    def resized(self) -> MixSpec:
        """It has no size."""
        return self


class Mixing(nn.Module):
    """The real part of a Fourier transform, the state of the token before, or a mean of neighbours."""

    def __init__(self, kind: MixKind) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor, _sides: Sides) -> Tensor:
        if self.kind == "fourier":
            return torch.fft.fft2(x).real
        if self.kind == "shift":
            return torch.roll(x, 1, 1)
        return F.avg_pool1d(x.transpose(1, 2), 3, 1, 1).transpose(1, 2)
