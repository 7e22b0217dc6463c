"""Random terms on a state (batch, width, PIXELS, PIXELS), as ResNet, MobileNet and ConvNeXt write them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.properties.random_layers import ACTIVATIONS, LinearSpec, NormSpec, activations, linear_specs, norm_specs
from tests.properties.random_token_terms import Sides

PIXELS = 5

ConvolutionKind = Literal["basic", "bottleneck", "grouped", "depthwise", "separable", "pointwise"]
ChannelNorm = Literal["batch", "group", "none"]
# Of each kind the convolutions: which widths (w of the state, h hidden), kernel size, groups ("h" is depthwise).
LAYERS: dict[ConvolutionKind, tuple[tuple[str, str, int, str], ...]] = {
    "basic": (("w", "h", 3, "1"), ("h", "w", 3, "1")),
    "bottleneck": (("w", "h", 1, "1"), ("h", "h", 3, "1"), ("h", "w", 1, "1")),
    "grouped": (("w", "h", 1, "1"), ("h", "h", 3, "2"), ("h", "w", 1, "1")),
    "depthwise": (("w", "h", 1, "1"), ("h", "h", 3, "h"), ("h", "w", 1, "1")),
    "separable": (("w", "w", 3, "w"), ("w", "w", 1, "1")),
    "pointwise": (("w", "h", 1, "1"), ("h", "w", 1, "1")),
}


@dataclass(frozen=True)
class ConvolutionSpec:
    """Convolutions with norms and activations between them.

    Attributes:
        before: norm and activation stand before each convolution and not after it (pre-activation ResNet).
        last_norm: a norm follows the last convolution.
        squeeze: the channels are scaled by a function of their means before the last convolution.
    """

    kind: ConvolutionKind
    hidden: int
    norm: ChannelNorm
    eps: float
    affine: bool
    activation: str
    bias: bool
    before: bool
    last_norm: bool
    squeeze: bool

    def build(self, width: int) -> nn.Module:
        """The module on (batch, width, PIXELS, PIXELS) and `Sides`."""
        return RandomConvolution(self, width)

    def resized(self) -> ConvolutionSpec:
        """The same with more hidden channels."""
        return replace(self, hidden=self.hidden + 2)


@dataclass(frozen=True)
class ConvNextSpec:
    """Depthwise convolution, then norm and MLP over the channels as last dimension, or as 1 x 1 convolutions."""

    hidden: int
    norm: NormSpec
    activation: str
    linear: LinearSpec

    def build(self, width: int) -> nn.Module:
        """The module on (batch, width, PIXELS, PIXELS) and `Sides`."""
        return ConvNext(self, width)

    def resized(self) -> ConvNextSpec:
        """The same with more hidden features."""
        return replace(self, hidden=self.hidden + 2)


class SqueezeExcite(nn.Module):
    """x * sigmoid(f(mean of x over the pixels))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, 2, 1), nn.Conv2d(2, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.up(torch.relu(self.down(means))))


class Activation(nn.Module):
    """An activation by its name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.function = ACTIVATIONS[name]

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class RandomConvolution(nn.Module):
    """The convolutions of a kind."""

    def __init__(self, spec: ConvolutionSpec, width: int) -> None:
        super().__init__()
        sizes = {"w": width, "h": spec.hidden, "1": 1, "2": 2}
        plan = LAYERS[spec.kind]
        layers: list[nn.Module] = []
        for number, (inputs, outputs, kernel, groups) in enumerate(plan):
            last = number == len(plan) - 1
            if spec.before:
                layers += [channel_norm(spec, sizes[inputs]), Activation(spec.activation)]
            if spec.squeeze and last:
                layers.append(SqueezeExcite(sizes[inputs]))
            layers.append(
                nn.Conv2d(
                    sizes[inputs],
                    sizes[outputs],
                    kernel,
                    padding=kernel // 2,
                    groups=sizes[groups],
                    bias=spec.bias,
                )
            )
            if not spec.before and (not last or spec.last_norm):
                layers.append(channel_norm(spec, sizes[outputs]))
            if not spec.before and not last:
                layers.append(Activation(spec.activation))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, _sides: Sides) -> Tensor:
        y: Tensor = self.layers(x)
        return y


class ConvNext(nn.Module):
    """depthwise, permute, norm, up, activation, down, permute."""

    def __init__(self, spec: ConvNextSpec, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = spec.norm.build(width)
        self.up, self.down = spec.linear.build(width, spec.hidden), spec.linear.build(spec.hidden, width)
        self.activation = ACTIVATIONS[spec.activation]

    def forward(self, x: Tensor, _sides: Sides) -> Tensor:
        rows = self.norm(self.mix(x).permute(0, 2, 3, 1).contiguous())
        y: Tensor = self.down(self.activation(self.up(rows))).permute(0, 3, 1, 2)
        return y


def channel_norm(spec: ConvolutionSpec, width: int) -> nn.Module:
    """The norm over channels that a convolution has."""
    if spec.norm == "batch":
        return nn.BatchNorm2d(width, spec.eps, affine=spec.affine)
    return nn.GroupNorm(2, width, spec.eps, affine=spec.affine) if spec.norm == "group" else nn.Identity()


def convolution_specs() -> st.SearchStrategy[ConvolutionSpec | ConvNextSpec]:
    """Any term on a convolutional state."""
    convolutions = st.builds(
        ConvolutionSpec,
        kind=st.sampled_from(sorted(LAYERS)),
        hidden=st.sampled_from((4, 6)),
        norm=st.sampled_from(("batch", "batch", "group", "none")),
        eps=st.sampled_from((1e-5, 1e-3)),
        affine=st.booleans(),
        activation=activations(),
        bias=st.booleans(),
        before=st.booleans(),
        last_norm=st.booleans(),
        squeeze=st.sampled_from((False, False, True)),
    )
    convnexts = st.builds(ConvNextSpec, st.sampled_from((4, 6)), norm_specs(), activations(), linear_specs())
    return st.one_of(convolutions, convolutions, convnexts)
