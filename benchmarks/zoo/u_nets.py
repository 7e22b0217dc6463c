"""U-Nets of diffusion and flow models: the second half reads the states of the first."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from benchmarks.zoo.entry import BLOCKS, CONDITION, WIDTH
from benchmarks.zoo.layers import Attention, mlp


class UVit(nn.Module):
    """A ViT whose second half reads the states of the first, joined by a linear (arXiv 2209.12152)."""

    def __init__(self) -> None:
        super().__init__()
        self.inward, self.outward = (
            nn.ModuleList(nn.ModuleList([Attention(), mlp()]) for _ in range(BLOCKS)) for _ in range(2)
        )
        self.joins = nn.ModuleList(nn.Linear(2 * WIDTH, WIDTH) for _ in range(BLOCKS // 2))
        self.head = nn.Linear(WIDTH, 8)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to (batch, tokens, 8); every second state is kept."""
        kept = []
        for number, terms in enumerate(self.inward):
            for term in terms:
                x = x + term(x)
            if number % 2:
                kept.append(x)
        for number, terms in enumerate(self.outward):
            if number % 2 == 0:
                x = self.joins[number // 2](torch.cat([x, kept.pop()], -1))
            for term in terms:
                x = x + term(x)
        result: Tensor = self.head(x)
        return result


class ConditionedResidual(nn.Module):
    """Group norm, SiLU, convolution, the condition added to the channels, and the same again (arXiv 2006.11239)."""

    def __init__(self, width: int, dims: int) -> None:
        super().__init__()
        convolution = nn.Conv2d if dims == 2 else nn.Conv1d
        self.norm1, self.norm2 = nn.GroupNorm(4, width), nn.GroupNorm(4, width)
        self.conv1, self.conv2 = convolution(width, width, 3, padding=1), convolution(width, width, 3, padding=1)
        self.condition = nn.Linear(CONDITION, width)
        self.axes = (...,) + (None,) * dims

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """One block."""
        y = self.conv1(F.silu(self.norm1(x))) + self.condition(F.silu(condition))[self.axes]
        result: Tensor = x + self.conv2(F.silu(self.norm2(y)))
        return result


class UNet(nn.Module):
    """Two resolutions of two blocks each on the way down and up, with a skip from each block down to one up."""

    dims = 2

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        convolution = nn.Conv2d if self.dims == 2 else nn.Conv1d
        wider = 2 * width
        self.stem, self.head = convolution(4, width, 3, padding=1), convolution(width, 4, 3, padding=1)
        self.halve, self.widen = convolution(width, width, 3, 2, 1), convolution(width, wider, 1)
        self.narrow = convolution(wider, width, 1)
        self.down = nn.ModuleList(ConditionedResidual(width, self.dims) for _ in range(2))
        self.middle = nn.ModuleList(ConditionedResidual(wider, self.dims) for _ in range(2))
        self.joins = nn.ModuleList(convolution(wider, width, 1) for _ in range(2))
        self.up = nn.ModuleList(ConditionedResidual(width, self.dims) for _ in range(2))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(batch, 4, 16 [, 16]) and (batch, 16) to the same shape."""
        x = self.stem(x)
        kept = []
        for block in self.down:
            x = block(x, condition)
            kept.append(x)
        x = self.widen(self.halve(x))
        for block in self.middle:
            x = block(x, condition)
        x = F.interpolate(self.narrow(x), scale_factor=2.0, mode="nearest")
        for join, block in zip(self.joins, self.up, strict=True):
            x = block(join(torch.cat([x, kept.pop()], 1)), condition)
        result: Tensor = self.head(x)
        return result


class UNet1d(UNet):
    """The network of diffusion policies: actions along one axis (arXiv 2303.04137)."""

    dims = 1
