"""A pre-norm vision transformer that runs serially or as a Para-Former, with one set of parameters.

    serial:       x_i = x_{i-1} + f_i(x_{i-1})                       one block after another
    Para-Former:  y   = x_0 + sum_b (branch_b(x_0) - x_0)            every branch reads the embedding

A branch is a short serial run of consecutive blocks, so N = depth branches of one block each is the pure
Para-Former of arXiv 2407.21670 and one branch of all blocks is the serial network again. The parameters do not
know the mode: a state dict trained in one mode loads in the other.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from paraformer.modes import Mode


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of a vision transformer. Lengths in pixels, the rest in units of features or counts.

    Raises:
        ValueError: a size that does not divide as it must, or an unknown mode.
    """

    image_size: int = 28
    patch_size: int = 4
    channels: int = 1
    classes: int = 10
    depth: int = 12
    width: int = 64
    heads: int = 4
    hidden: int = 256
    mode: Mode = "serial"
    branches: int = 1
    pixel_mean: float = 72.94
    pixel_std: float = 90.02

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size", "channels", "classes", "depth", "width", "heads", "hidden"):
            size = getattr(self, name)
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} must be a whole number from 1, not {size!r}")
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} does not divide image_size {self.image_size}")
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide width {self.width}")
        if self.mode not in ("serial", "para-former"):
            raise ValueError(f"mode must be 'serial' or 'para-former', not {self.mode!r}")
        if self.branches < 1 or self.depth % self.branches:
            raise ValueError(f"branches {self.branches} does not divide depth {self.depth}")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one sample: channels, height, width."""
        return (self.channels, self.image_size, self.image_size)

    def to_dict(self) -> dict[str, int | float | str]:
        """Plain values only, as a checkpoint stores them."""
        return asdict(self)


class Attention(nn.Module):
    """Multi-head self-attention on (batch, tokens, width); queries, keys and values in one projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        merged: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return merged


class Block(nn.Module):
    """One transformer block: two residual terms, attention then MLP, each behind its own LayerNorm."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return y


class VisionParaFormer(nn.Module):
    """Image classifier: (batch, channels, height, width) pixel values from 0 to 255 -> (batch, classes) logits.

    Patches are embedded by one convolution, positions are learned, the tokens are averaged before the head.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        tokens = (config.image_size // config.patch_size) ** 2
        self.patch = nn.Conv2d(config.channels, config.width, config.patch_size, config.patch_size)
        self.position = nn.Parameter(torch.empty(1, tokens, config.width))
        self.blocks = nn.ModuleList(Block(config.width, config.heads, config.hidden) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal weights; what a block adds to the state starts small in a deep network."""
        nn.init.trunc_normal_(self.position, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
                nn.init.zeros_(module.bias)
        scale = (2 * self.config.depth) ** -0.5
        with torch.no_grad():
            for block in self.blocks:
                assert isinstance(block, Block)
                block.attention.out.weight.mul_(scale)
                block.down.weight.mul_(scale)

    def embed(self, images: Tensor) -> Tensor:
        """The state x_0 that the blocks read: (batch, tokens, width)."""
        pixels = (images - self.config.pixel_mean) / self.config.pixel_std
        embedded: Tensor = self.patch(pixels).flatten(2).transpose(1, 2) + self.position
        return embedded

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images)
        per_branch = (
            self.config.depth // self.config.branches if self.config.mode == "para-former" else len(self.blocks)
        )
        y = x
        for first in range(0, len(self.blocks), per_branch):
            state = x
            for block in self.blocks[first : first + per_branch]:
                state = block(state)
            y = state if first == 0 else y + (state - x)
        logits: Tensor = self.head(self.norm(y).mean(1))
        return logits
