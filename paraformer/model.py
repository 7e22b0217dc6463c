"""The models that there are, by the kind that a checkpoint names.

    vision    VisionParaFormer    images of VisionConfig
    tokens    TokenParaFormer     sequences of TokenConfig

Configs and blocks can be imported from here too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from paraformer.block import Attention, Block
from paraformer.config import ParaFormerConfig, TokenConfig, VisionConfig
from paraformer.network import ParaFormer
from paraformer.tokens import TokenParaFormer
from paraformer.vision import VisionParaFormer

__all__ = [
    "KINDS",
    "Attention",
    "Block",
    "ParaFormer",
    "ParaFormerConfig",
    "TokenConfig",
    "TokenParaFormer",
    "VisionConfig",
    "VisionParaFormer",
    "build",
    "kind_of",
]


@dataclass(frozen=True)
class Kind:
    """A config class and the model that is built from it."""

    config: type[ParaFormerConfig]
    model: Callable[..., ParaFormer]


KINDS = {"vision": Kind(VisionConfig, VisionParaFormer), "tokens": Kind(TokenConfig, TokenParaFormer)}


def kind_of(config: ParaFormerConfig) -> str:
    """The kind of model that a config is of."""
    return next(name for name, kind in KINDS.items() if isinstance(config, kind.config))


def build(config: ParaFormerConfig) -> ParaFormer:
    """The model of these sizes, with new weights."""
    return KINDS[kind_of(config)].model(config)
