"""Networks whose branches run side by side already."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from benchmarks.zoo.entry import BLOCKS, HEADS, HIDDEN, WIDTH, Entry, Feed, pixels, states
from paraformer.model import VisionConfig, VisionParaFormer

IMAGES = {"images": Feed((3, 1, 8, 8))}


def entries() -> Iterator[Entry]:
    """All networks with branches."""
    one, two = {"attention": 1, "mlp": 1}, {"attention": 2, "mlp": 2}
    side_by_side = "they are parallel already"
    yield Entry(
        "para-former", lambda: _para_former(branches=BLOCKS), IMAGES, (one,) * BLOCKS, (side_by_side,), slow=True
    )
    yield Entry("para-former-deep", lambda: _para_former(branches=2), IMAGES, (two, two), (side_by_side,), slow=True)
    yield Entry("resnext-branches", ResNext, pixels(16), ({"convolution": BLOCKS},), slow=True)
    yield Entry("inception", Inception, pixels(16), ({"convolution": BLOCKS},), slow=True)
    yield Entry("ensemble-mean", lambda: Ensemble("mean"), states("x"), (), slow=True)
    yield Entry("ensemble-sum", lambda: Ensemble("sum"), states("x"), (), (side_by_side,))


def _para_former(branches: int) -> nn.Module:
    return VisionParaFormer(
        VisionConfig(
            image_size=8,
            patch_size=4,
            depth=BLOCKS,
            width=WIDTH,
            heads=HEADS,
            hidden=HIDDEN,
            mode="para-former",
            branches=branches,
        )
    )


def convolution(inputs: int, outputs: int, size: int) -> nn.Sequential:
    """Convolution, batch norm, ReLU on (batch, channels, height, width)."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class ResNextBlock(nn.Module):
    """relu(x + sum of branches): each branch narrows, convolves and widens again (arXiv 1611.05431, figure 3a)."""

    def __init__(self, branches: int = 4, narrow: int = 8) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(convolution(WIDTH, narrow, 1), convolution(narrow, narrow, 3), nn.Conv2d(narrow, WIDTH, 1))
            for _ in range(branches)
        )

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        return F.relu(x + sum(branch(x) for branch in self.branches))


class ResNext(nn.Module):
    """Images (batch, 3, height, width) to (batch, 10) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.blocks = nn.Sequential(*(ResNextBlock() for _ in range(BLOCKS)))
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Stem, blocks, the mean over pixels."""
        logits: Tensor = self.head(self.blocks(self.stem(pixel_values)).mean((2, 3)))
        return logits


class InceptionBlock(nn.Module):
    """x + projection of concatenated branches of unlike depth (Inception-ResNet, arXiv 1602.07261)."""

    def __init__(self, narrow: int = 8) -> None:
        super().__init__()
        self.one = convolution(WIDTH, narrow, 1)
        self.three = nn.Sequential(convolution(WIDTH, narrow, 1), convolution(narrow, narrow, 3))
        self.five = nn.Sequential(
            convolution(WIDTH, narrow, 1), convolution(narrow, narrow, 3), convolution(narrow, narrow, 3)
        )
        self.join = nn.Conv2d(3 * narrow, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        branches = torch.cat([self.one(x), self.three(x), self.five(x)], 1)
        return F.relu(x + self.join(branches))


class Inception(nn.Module):
    """Images (batch, 3, height, width) to (batch, 10) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.blocks = nn.Sequential(*(InceptionBlock() for _ in range(BLOCKS)))
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Stem, blocks, the mean over pixels."""
        logits: Tensor = self.head(self.blocks(self.stem(pixel_values)).mean((2, 3)))
        return logits


class Ensemble(nn.Module):
    """Equal heads on one state, (batch, tokens, width) to (batch, tokens, 10), joined by their mean or their sum."""

    def __init__(self, join: str, heads: int = 5) -> None:
        super().__init__()
        self.join = join
        self.heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 10))
            for _ in range(heads)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The mean by way of `stack`, the sum by way of adds."""
        results = [head(x) for head in self.heads]
        if self.join == "mean":
            return torch.stack(results).mean(0)
        total = results[0]
        for result in results[1:]:
            total = total + result
        return total
