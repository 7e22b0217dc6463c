"""Small Para-Formers whose every parameter matters, and what they read."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from paraformer.config import ParaFormerConfig, TokenConfig, VisionConfig
from paraformer.model import build
from paraformer.network import ParaFormer

Inputs = tuple[Tensor, ...]
SIZES = {"width": 16, "heads": 2, "hidden": 24, "classes": 3}


def vision(branches: int, depth: int = 1, **others: object) -> VisionConfig:
    """Branches of `depth` blocks for images of four patches; one branch is serial."""
    sizes = {**SIZES, "image_size": 8, "patch_size": 4, **_branched(branches, depth), **others}
    return VisionConfig(**sizes)  # type: ignore[arg-type]


def tokens(branches: int, depth: int = 1, **others: object) -> TokenConfig:
    """The same for up to ten tokens of twenty kinds."""
    return TokenConfig(**{**SIZES, "vocabulary": 20, "length": 10, **_branched(branches, depth), **others})  # type: ignore[arg-type]


def _branched(branches: int, depth: int) -> dict[str, object]:
    mode = "para-former" if branches > 1 else "serial"
    return {"mode": mode, "branches": branches, "depth": branches * depth}


def randomised(config: ParaFormerConfig, seed: int = 0) -> ParaFormer:
    """A model in float64 and eval mode; norms and biases have random weights too."""
    model = build(config).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, dtype=parameter.dtype, generator=generator)
            parameter.copy_(noise * 0.3 + ("norm" in name and name.endswith("weight")))
    return model


def images(count: int = 3) -> Inputs:
    """Pixels for the image model."""
    return (torch.rand(count, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 255,)


def sequences(count: int = 3, length: int = 7) -> Inputs:
    """Tokens of different lengths and their mask, padded on the right, for the token model."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 20, (count, length), generator=generator)
    lengths = torch.arange(length, length - count, -1)
    return ids, (torch.arange(length) < lengths[:, None]).long()


def unpadded(count: int = 3, length: int = 7) -> Inputs:
    """Tokens alone."""
    return sequences(count, length)[:1]


Feed = Callable[[], Inputs]


def trained(model: nn.Module, inputs: Inputs) -> Tensor:
    """The outputs, after a backward pass of a loss that no gradient is zero for."""
    model.zero_grad()
    outputs: Tensor = model(*inputs)
    (outputs * torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view_as(outputs)).sum().backward()  # type: ignore[no-untyped-call]
    return outputs.detach()
