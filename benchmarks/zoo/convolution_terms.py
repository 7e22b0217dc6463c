"""Terms of convolutional networks: f of x + f(x), (batch, width, height, width) to the same."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from benchmarks.zoo.entry import WIDTH


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
