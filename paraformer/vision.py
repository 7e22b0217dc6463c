"""A Para-Former that classifies images: patches are tokens, positions are learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paraformer.config import VisionConfig
from paraformer.network import ParaFormer


class VisionParaFormer(ParaFormer):
    """Image classifier: (batch, channels, height, width) pixel values from 0 to 255 -> (batch, classes) logits.

    Patches are embedded by one convolution, positions are learned; the head reads the mean of the tokens, or a learned
    token before them.
    """

    config: VisionConfig

    def __init__(self, config: VisionConfig) -> None:
        super().__init__(config)
        self.patch = nn.Conv2d(config.channels, config.width, config.patch_size, config.patch_size)
        self.position = nn.Parameter(torch.empty(1, config.tokens, config.width))
        if config.pooling == "cls":
            self.cls = nn.Parameter(torch.zeros(1, 1, config.width))
        self.add_blocks(config.classes)
        nn.init.trunc_normal_(self.position, std=0.02)
        self.reset_blocks()

    def embed(self, images: Tensor) -> Tensor:
        """The state x_0 that the blocks read: (batch, tokens, width)."""
        pixels = (images - self.config.pixel_mean) / self.config.pixel_std
        patches: Tensor = self.patch(pixels).flatten(2).transpose(1, 2)
        if self.config.pooling == "cls":
            patches = torch.cat([self.cls.expand(patches.shape[0], -1, -1), patches], 1)
        return patches + self.position

    def forward(self, images: Tensor) -> Tensor:
        return self.answer(self.blocks(self.embed(images)))
