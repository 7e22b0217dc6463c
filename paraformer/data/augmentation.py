"""Augmentation of images: shifts and mirrors, drawn from a generator of their own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)


def augment(images: Tensor, generator: torch.Generator, shift: int = 2, *, mirrors: bool = True) -> Tensor:
    """Shift each image by up to `shift` pixels in both directions and mirror every other one at random.

    Args:
        images: (n, channels, height, width), any dtype; zeros come in from the border.
        generator: where the randomness comes from, so that a seed repeats a run.
        shift: largest displacement in pixels.
        mirrors: whether a mirrored image is of the same class, which it is not where there are digits.

    Returns:
        A new tensor of the same shape and dtype.
    """
    count, _, height, width = images.shape
    padded = F.pad(images, (shift, shift, shift, shift))
    down, right = torch.randint(0, 2 * shift + 1, (2, count), generator=generator)
    mirror = (torch.rand(count, generator=generator) < 0.5) & mirrors
    rows = down[:, None] + torch.arange(height)
    columns = right[:, None] + torch.where(mirror[:, None], torch.arange(width - 1, -1, -1), torch.arange(width))
    samples = torch.arange(count)
    return padded[samples[:, None, None], :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1).contiguous()
