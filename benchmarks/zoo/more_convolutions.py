"""More convolutional networks: many terms in one frame, depthwise mixers, restoration, and nets of many paths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from benchmarks.zoo.convolution_terms import (
    ChannelAttention,
    Ghost,
    GlobalContext,
    MaxVit,
    NonLocal,
    NormFree,
    PreActivation,
    RepVgg,
    Res2Net,
    Shuffle,
)
from benchmarks.zoo.entry import BLOCKS, HIDDEN, WIDTH, Entry, pixels, pretrained
from benchmarks.zoo.layers import Chain

TERMS = ({"convolution": BLOCKS},)
TWO = {"convolution": 2}
PROJECTED = "so the block changes the state and ends the stack"


def entries() -> Iterator[Entry]:
    """All of them."""
    small = pixels(16)
    bit: dict[str, Any] = {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [3, 3], "num_groups": 4}
    yield Entry("bit-pre-activation", pretrained("BitModel", **bit), pixels(), (TWO, TWO), (PROJECTED,) * 2, slow=True)
    bottleneck = pretrained("BitModel", **bit, layer_type="bottleneck")
    yield Entry("bit-bottleneck", bottleneck, pixels(), (TWO, TWO), (PROJECTED,) * 2, slow=True)
    three = {"convolution": 3}
    convnext: dict[str, Any] = {"num_stages": 2, "hidden_sizes": [16, 32], "depths": [3, 3]}
    yield Entry("convnext-v2", pretrained("ConvNextV2Model", **convnext), pixels(), (three, three), slow=True)
    mobile = pretrained("MobileNetV1Model", image_size=32, depth_multiplier=0.125)
    yield Entry("mobilenet-v1", mobile, pixels(), slow=True)
    text_net: dict[str, Any] = {"stem_out_channels": 16, "hidden_sizes": [16, 16, 16, 16, 16]}
    yield Entry("textnet", pretrained("TextNetModel", **text_net), pixels(), slow=True)
    yield Entry("nf-net", lambda: _body(NormFree), small, TERMS, slow=True)
    yield Entry("res-net-v2", lambda: _body(PreActivation), small, TERMS, slow=True)
    yield Entry("res-2-net", lambda: _body(Res2Net), small, TERMS, slow=True)
    yield Entry("rep-vgg", lambda: _body(RepVgg), small, TERMS, slow=True)
    yield Entry("ghost-net", lambda: _body(Ghost), small, TERMS, slow=True)
    yield Entry("shuffle-net", lambda: _body(Shuffle), small, TERMS, slow=True)
    yield Entry("conv-mixer", ConvMixer, small, slow=True)
    yield Entry("dense-net", DenseNet, small, slow=True)
    yield Entry("edsr", Edsr, small, TERMS, ("holds a longer stack",), slow=True)
    yield Entry("rcan", lambda: _body(ChannelAttention), small, TERMS, slow=True)
    yield Entry("nafnet", NafNet, small, slow=True)
    yield Entry("hourglass", Hourglass, small, slow=True)
    yield Entry("max-vit", lambda: _body(MaxVit), small, slow=True)
    yield Entry("global-context", lambda: _body(GlobalContext), small, TERMS, slow=True)
    yield Entry("non-local", lambda: _body(NonLocal), small, slow=True)
    yield Entry("scaled-residual", ScaledResidual, small, TERMS, slow=True)


def _body(term: Callable[[], nn.Module]) -> nn.Module:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 10))
    return Renamed(Chain(nn.Conv2d(3, WIDTH, 3, padding=1), [term() for _ in range(BLOCKS)], head))


class Renamed(nn.Module):
    """Images by the name that all models of images give them."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(batch, 3, height, width) to what the body gives."""
        result: Tensor = self.body(pixel_values)
        return result


class ConvMixer(nn.Module):
    """x + norm(gelu(depthwise(x))), then a 1x1 convolution of the sum that has no skip (arXiv 2201.09792)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, WIDTH, 4, 4), nn.Linear(WIDTH, 10)
        self.depthwise = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 5, padding=2, groups=WIDTH) for _ in range(BLOCKS))
        self.pointwise = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 1) for _ in range(BLOCKS))
        self.norms = nn.ModuleList(nn.BatchNorm2d(WIDTH) for _ in range(2 * BLOCKS))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(batch, 3, height, width) to (batch, 10)."""
        x = self.stem(pixel_values)
        norms = iter(self.norms)
        for depthwise, pointwise in zip(self.depthwise, self.pointwise, strict=True):
            x = x + next(norms)(F.gelu(depthwise(x)))
            x = next(norms)(F.gelu(pointwise(x)))
        result: Tensor = self.head(x.mean((2, 3)))
        return result


class DenseNet(nn.Module):
    """Each layer reads what all before it gave, concatenated: there is no sum (arXiv 1608.06993)."""

    def __init__(self, growth: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(16 + growth * number), nn.ReLU(), nn.Conv2d(16 + growth * number, growth, 3, padding=1)
            )
            for number in range(BLOCKS)
        )
        self.head = nn.Linear(16 + growth * BLOCKS, 10)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(batch, 3, height, width) to (batch, 10)."""
        x = self.stem(pixel_values)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        result: Tensor = self.head(x.mean((2, 3)))
        return result


class Edsr(nn.Module):
    """Scaled residual blocks inside one long skip, then pixels are shuffled out (arXiv 1707.02921)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1))
            for _ in range(BLOCKS)
        )
        self.up = nn.Sequential(nn.Conv2d(WIDTH, 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(batch, 3, height, width) to twice the size."""
        first = x = self.stem(pixel_values)
        for block in self.blocks:
            x = x + 0.1 * block(x)
        result: Tensor = self.up(first + self.last(x))
        return result


class NafNet(nn.Module):
    """Gates instead of activations, a norm over channels, learned scales of both terms (arXiv 2204.04676)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, 3, 3, padding=1)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2 * BLOCKS))
        self.ups = nn.ModuleList(nn.Conv2d(WIDTH, HIDDEN, 1) for _ in range(2 * BLOCKS))
        self.depthwise = nn.ModuleList(nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1, groups=HIDDEN) for _ in range(BLOCKS))
        self.channels = nn.ModuleList(nn.Conv2d(HIDDEN // 2, HIDDEN // 2, 1) for _ in range(BLOCKS))
        self.downs = nn.ModuleList(nn.Conv2d(HIDDEN // 2, WIDTH, 1) for _ in range(2 * BLOCKS))
        self.scales = nn.Parameter(torch.zeros(2 * BLOCKS, WIDTH, 1, 1))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(batch, 3, height, width) to the same."""
        x = self.stem(pixel_values)
        for number in range(2 * BLOCKS):
            y = self.norms[number](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            y = self.ups[number](y)
            if number % 2 == 0:
                y = self.depthwise[number // 2](y)
            one, two = y.chunk(2, 1)
            y = one * two
            if number % 2 == 0:
                y = y * self.channels[number // 2](y.mean((2, 3), keepdim=True))
            x = x + self.scales[number] * self.downs[number](y)
        result: Tensor = pixel_values + self.head(x)
        return result


class Hourglass(nn.Module):
    """Blocks at half the size beside blocks at full size, twice (arXiv 1603.06937)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, 5, 1)
        self.beside, self.inside = (
            nn.ModuleList(Chain(nn.Identity(), [PreActivation(), PreActivation()], nn.Identity()) for _ in range(2))
            for _ in range(2)
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(batch, 3, height, width) to (batch, 5, height, width)."""
        x = self.stem(pixel_values)
        for beside, inside in zip(self.beside, self.inside, strict=True):
            x = beside(x) + F.interpolate(inside(F.max_pool2d(x, 2)), scale_factor=2.0, mode="nearest")
        result: Tensor = self.head(x)
        return result


class ScaledResidual(nn.Module):
    """0.9 x + f(x): the skip is scaled (as some generators and flows do)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, 3, 1)
        self.blocks = nn.ModuleList(PreActivation() for _ in range(BLOCKS))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(batch, 3, height, width) to the same."""
        x = self.stem(pixel_values)
        for block in self.blocks:
            x = 0.9 * x + block(x)
        result: Tensor = self.head(x)
        return result
