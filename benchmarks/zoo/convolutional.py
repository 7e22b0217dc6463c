"""Convolutional networks: pyramids whose stages are stacks of their own, and an MLP-Mixer."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from benchmarks.zoo.entry import BLOCKS, HIDDEN, WIDTH, Entry, pixels


def entries() -> Iterator[Entry]:
    """All convolutional networks."""
    projected = "so the block changes the state and ends the stack"
    two, three = {"convolution": 2}, {"convolution": 3}
    yield Entry("resnet-basic", lambda: _resnet("basic"), pixels(), (three, two), (projected,))
    yield Entry("resnet-bottleneck", lambda: _resnet("bottleneck"), pixels(), (three, two), (projected,), slow=True)
    yield Entry("convnext", _convnext, pixels(), (three, three), slow=True)
    yield Entry("mobilenet-v2", _mobilenet, pixels(), ({"convolution": 1}, two, three, two, two), slow=True)
    yield Entry("efficientnet", _efficientnet, pixels(), (two, two), slow=True)
    yield Entry("regnet-x", lambda: _regnet("x"), pixels(), (two, two), (projected, projected), slow=True)
    yield Entry("regnet-y", lambda: _regnet("y"), pixels(), (two, two), (projected, projected), slow=True)
    yield Entry("mlp-mixer", MlpMixer, pixels(), ({"mlp": 2 * BLOCKS},), slow=True)


def _resnet(layer: str) -> nn.Module:
    from transformers import ResNetConfig, ResNetModel

    return ResNetModel(ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[3, 3], layer_type=layer))


def _convnext() -> nn.Module:
    """A convolution for each channel, then an MLP over channels; a stage begins with a convolution of stride 2."""
    from transformers import ConvNextConfig, ConvNextModel

    return ConvNextModel(ConvNextConfig(num_stages=2, hidden_sizes=[16, 32], depths=[3, 3], layer_scale_init_value=0.1))


def _mobilenet() -> nn.Module:
    from transformers import MobileNetV2Config, MobileNetV2Model

    return MobileNetV2Model(MobileNetV2Config(image_size=64, depth_multiplier=0.25))


def _efficientnet() -> nn.Module:
    """Squeeze and excite: each channel is scaled by what all channels hold on average."""
    from transformers import EfficientNetConfig, EfficientNetModel

    return EfficientNetModel(
        EfficientNetConfig(
            width_coefficient=1.0,
            depth_coefficient=1.0,
            hidden_dim=1280,
            in_channels=[32, 16],
            out_channels=[16, 24],
            strides=[1, 2],
            num_block_repeats=[3, 3],
            expand_ratios=[1, 4],
            kernel_sizes=[3, 5],
            depthwise_padding=[],
        )
    )


def _regnet(layer: str) -> nn.Module:
    """Grouped convolutions, in the form y with squeeze and excite."""
    from transformers import RegNetConfig, RegNetModel

    return RegNetModel(
        RegNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[3, 3], groups_width=8, layer_type=layer)
    )


class MixerBlock(nn.Module):
    """Two MLPs, the first over tokens, the second over channels: (batch, tokens, width) to the same."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.tokens_up, self.tokens_down = nn.Linear(tokens, HIDDEN), nn.Linear(HIDDEN, tokens)
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        mixed = self.tokens_down(F.gelu(self.tokens_up(self.norm1(x).transpose(1, 2))))
        x = x + mixed.transpose(1, 2)
        y: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return y


class MlpMixer(nn.Module):
    """Images (batch, 3, 32, 32) to (batch, 10) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, 8, 8)
        self.blocks = nn.Sequential(*(MixerBlock(16) for _ in range(BLOCKS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Patches, blocks, the mean over tokens."""
        x = self.blocks(self.patch(pixel_values).flatten(2).transpose(1, 2))
        logits: Tensor = self.head(self.norm(x).mean(1))
        return logits
