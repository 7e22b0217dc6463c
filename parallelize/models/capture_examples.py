"""Example inputs for the exporter: which dimensions are free, and how long they are in the example.

Only shapes and dtypes of an example matter. A free dimension is as long as the exporter needs, and a first axis may
have several rows for each sample: `4*batch`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from parallelize.data.tensor_spec import OTHER_SIZE
from passes.errors import ParallelizeError

Dynamic = Literal["batch"] | Sequence[Mapping[int, str]] | None

# Sizes for the first axis of an example: 0 and 1 are special to the exporter, and a prime is seldom a width.
_BATCH_SIZES = (3, 5, 7, 11, 13, 17, 19, 23)


def multiple(name: str) -> tuple[int, str]:
    """The factor and the name in `4*batch`; anything else is once itself."""
    factor, star, word = name.partition("*")
    return (int(factor), word) if star and factor.isdigit() and word.isidentifier() else (1, name)


def dynamic_dims(examples: Sequence[Tensor], dynamic: Dynamic, origin: str) -> list[dict[int, str]]:
    """One mapping {dimension: name} for each example tensor."""
    if dynamic is None:
        return [{} for _ in examples]
    if isinstance(dynamic, str):
        length = next((len(tensor) for tensor in examples if tensor.ndim), None)
        return [{0: "batch"} if tensor.ndim and len(tensor) == length else {} for tensor in examples]
    if len(dynamic) != len(examples):
        raise ParallelizeError(
            f"{origin} reads {len(examples)} tensors, but free dimensions are given for {len(dynamic)}.",
            "Give one mapping of dimensions to names for each tensor; {} for a tensor of fixed shape.",
        )
    return [dict(names) for names in dynamic]


def resize(examples: Sequence[Tensor], dims: Sequence[Mapping[int, str]]) -> list[Tensor]:
    """The examples with free dimensions as long as the exporter needs: at least 2, and one name is one size.

    A first axis gets a size that no other dimension has, or the model might take the one for the other.
    """
    taken = {size for tensor, names in zip(examples, dims, strict=True) for size in _without(tensor.shape, names)}
    sizes: dict[str, int] = {}
    firsts = {names[0]: multiple(names[0]) for names in dims if 0 in names}
    for name, (factor, word) in firsts.items():
        if word not in sizes:
            factors = [1, *(rows for rows, same in firsts.values() if same == word)]
            sizes[word] = next(size for size in free_sizes() if taken.isdisjoint(rows * size for rows in factors))
            taken |= {rows * sizes[word] for rows in factors}
        sizes[name] = factor * sizes[word]
    for tensor, names in zip(examples, dims, strict=True):
        for axis, name in names.items():
            sizes.setdefault(name, tensor.shape[axis] if tensor.shape[axis] > 1 else OTHER_SIZE)
    return [_resized(tensor, names, sizes) for tensor, names in zip(examples, dims, strict=True)]


def free_sizes() -> Iterator[int]:
    """Sizes to try for a free first axis."""
    yield from _BATCH_SIZES
    yield from range(_BATCH_SIZES[-1] + 1, 10**6)


def _without(shape: Sequence[int], names: Mapping[int, str]) -> list[int]:
    """Every size but a free first axis."""
    return list(shape[1:] if 0 in names else shape)


def _resized(tensor: Tensor, names: Mapping[int, str], sizes: Mapping[str, int]) -> Tensor:
    """Repeat or cut along the free dimensions, so that token numbers stay token numbers."""
    shape = tuple(sizes[names[axis]] if axis in names else size for axis, size in enumerate(tensor.shape))
    if tensor.numel() == 0:
        return torch.zeros(shape, dtype=tensor.dtype, device=tensor.device)
    result = tensor.detach().clone()  # an object of its own, even when the caller passes one tensor twice
    for axis in names:
        index = torch.arange(shape[axis], device=tensor.device) % tensor.shape[axis]
        result = result.index_select(axis, index)
    return result
