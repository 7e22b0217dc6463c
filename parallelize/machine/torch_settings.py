"""Settings of torch that hold for a while: threads on the CPU, TF32 on a GPU, and no shortened products in a fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_settings(threads: int, *, tf32: bool) -> Iterator[None]:
    """Run torch on so many threads, and let float32 products on a GPU be rounded to TF32 or not."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = torch.get_num_threads(), products.allow_tf32, convolutions.allow_tf32
    torch.set_num_threads(threads)
    products.allow_tf32 = convolutions.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        products.allow_tf32, convolutions.allow_tf32 = before[1:]


@contextmanager
def whole_float32() -> Iterator[None]:
    """Compute products and convolutions of float32 in float32: what is fitted reads all of its 24 bits.

    A caller's set_float32_matmul_precision, and the default of convolutions, may let a GPU round to ten of them.
    """
    convolutions = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), convolutions.allow_tf32
    torch.set_float32_matmul_precision("highest")
    convolutions.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        convolutions.allow_tf32 = before[1]
