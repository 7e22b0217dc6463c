"""Settings of torch that hold for a while: threads on the CPU, TF32 on a GPU."""

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
