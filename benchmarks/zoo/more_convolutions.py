"""More convolutional networks: standardised weights, depthwise mixers, taps, restoration, and nets of many paths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

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
    yield Entry("nf-net", lambda: _body(NormFree), small, TERMS)
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


class StandardisedConv(nn.Conv2d):
    """Weights of each output channel have mean 0 and spread 1, by way of a batch norm of the weights (timm's way)."""

    def forward(self, x: Tensor) -> Tensor:
        """As a convolution."""
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True, momentum=0.0, eps=1e-6).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class NormFree(nn.Module):
    """alpha f(x / beta) without norms, its weights standardised (arXiv 2102.06171)."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.across, self.widen = (
            StandardisedConv(WIDTH, 16, 1),
            StandardisedConv(16, 16, 3, padding=1),
            StandardisedConv(16, WIDTH, 1),
        )
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, height, width) to the same."""
        y = self.narrow(F.gelu(x) * 0.9)
        y = self.widen(F.gelu(self.across(F.gelu(y))))
        return 0.2 * self.gain * y


class PreActivation(nn.Sequential):
    """Norm, ReLU, convolution, twice (arXiv 1603.05027)."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)]
        super().__init__(*layers)


class Res2Net(nn.Module):
    """Four parts of the channels, each convolved with what the part before gave (arXiv 1904.01169)."""

    def __init__(self) -> None:
        super().__init__()
        self.inward, self.out = nn.Conv2d(WIDTH, WIDTH, 1), nn.Conv2d(WIDTH, WIDTH, 1)
        self.parts = nn.ModuleList(nn.Conv2d(WIDTH // 4, WIDTH // 4, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, height, width) to the same."""
        first, *rest = F.relu(self.inward(x)).chunk(4, 1)
        done = [first]
        y = torch.zeros_like(first)
        for part, layer in zip(rest, self.parts, strict=True):
            y = F.relu(layer(part + y))
            done.append(y)
        result: Tensor = self.out(torch.cat(done, 1))
        return result


class RepVgg(nn.Module):
    """A 3x3 and a 1x1 convolution side by side, each with its norm (arXiv 2101.03697)."""

    def __init__(self) -> None:
        super().__init__()
        self.three, self.one = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), nn.Conv2d(WIDTH, WIDTH, 1, bias=False)
        self.norm3, self.norm1 = nn.BatchNorm2d(WIDTH), nn.BatchNorm2d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, height, width) to the same."""
        return F.relu(self.norm3(self.three(x)) + self.norm1(self.one(x)))


class Ghost(nn.Module):
    """Half of the channels are cheap depthwise images of the other half (arXiv 1911.11907)."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.cheap = nn.Conv2d(WIDTH, 32, 1), nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.out = nn.Conv2d(64, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, height, width) to the same."""
        y = F.relu(self.main(x))
        result: Tensor = self.out(torch.cat([y, F.relu(self.cheap(y))], 1))
        return result


class Shuffle(nn.Module):
    """Grouped 1x1 convolutions with the channels shuffled between them (arXiv 1707.01083)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(WIDTH, WIDTH, 1, groups=4), nn.Conv2d(WIDTH, WIDTH, 1, groups=4)
        self.across = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
        self.shuffle = nn.ChannelShuffle(4)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, height, width) to the same."""
        result: Tensor = self.last(self.across(self.shuffle(F.relu(self.first(x)))))
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


class ChannelAttention(nn.Module):
    """Two convolutions, and each channel scaled by what all channels hold on average (arXiv 1807.02758)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        )
        self.scale = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(WIDTH, 4, 1), nn.ReLU(), nn.Conv2d(4, WIDTH, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, height, width) to the same."""
        y = self.body(x)
        result: Tensor = y * self.scale(y)
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


class MaxVit(nn.Module):
    """Attention within windows on an image (arXiv 2204.01697); window and image sizes are fixed."""

    def __init__(self, window: int = 4) -> None:
        super().__init__()
        self.window, self.norm = window, nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, height, width) to the same."""
        side = x.shape[-1] // self.window
        tokens = x.unflatten(3, (side, self.window)).unflatten(2, (side, self.window)).permute(0, 2, 4, 3, 5, 1)
        tokens = self.norm(tokens.reshape(-1, self.window**2, WIDTH))
        q, k, v = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in self.qkv(tokens).chunk(3, -1))
        y = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        y = y.reshape(-1, side, side, self.window, self.window, WIDTH).permute(0, 5, 1, 3, 2, 4)
        return y.reshape(-1, WIDTH, side * self.window, side * self.window)


class GlobalContext(nn.Module):
    """One sum over all pixels, weighted by a softmax, added to each of them (arXiv 1904.11492)."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.score = nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, 1, 1)
        self.down, self.up = nn.Conv2d(WIDTH, 8, 1), nn.Conv2d(8, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, height, width) to the same."""
        y = self.body(x)
        weights = self.score(y).flatten(2).softmax(-1)
        context = (y.flatten(2) @ weights.transpose(1, 2))[..., None]
        result: Tensor = y + self.up(F.relu(self.down(context)))
        return result


class NonLocal(nn.Module):
    """Attention over pixels by 1x1 convolutions (arXiv 1711.07971)."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Conv2d(WIDTH, 16, 1) for _ in range(3))
        self.out = nn.Conv2d(16, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, height, width) to the same."""
        q, k, v = self.q(x).flatten(2), self.k(x).flatten(2), self.v(x).flatten(2)
        weights = (q.transpose(1, 2) @ k).softmax(-1)
        result: Tensor = self.out((v @ weights.transpose(1, 2)).unflatten(-1, x.shape[2:]))
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
