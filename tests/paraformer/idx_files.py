"""Write IDX files, the format of MNIST, so that tests have data sets of their own."""

from __future__ import annotations

import gzip
from pathlib import Path

import torch
from torch import Tensor

from paraformer.data.labelled import Labelled


def idx(values: Tensor, element_type: int = 8) -> bytes:
    """A uint8 tensor as an IDX file, not yet compressed."""
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, element_type, values.ndim]) + sizes + values.contiguous().numpy().tobytes()


def write_split(root: Path, prefix: str, data: Labelled) -> None:
    """Write one split under the names that Fashion-MNIST has."""
    root.mkdir(parents=True, exist_ok=True)
    (root / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(data.inputs[0].squeeze(1)), mtime=0))
    (root / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(data.labels.to(torch.uint8)), mtime=0))


def stripes(count: int, size: int, seed: int) -> Labelled:
    """A problem that is easy to learn: images of label 1 have horizontal stripes, those of label 0 vertical ones."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 100, (count, 1, size, size), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 2, (count,), generator=generator)
    vertical = (torch.arange(size, dtype=torch.uint8) % 2 * 150).expand(size, size)
    is_horizontal = (labels == 1)[:, None, None, None]
    return Labelled((noise + torch.where(is_horizontal, vertical.T, vertical),), labels)
