"""Inputs told by arrays of data: names, shapes, and the dtypes in which the model runs.

An array's dtype is how data was saved, not what the model reads. Floats become the model's own; bytes are mostly
pixels, sometimes classes; integers are mostly indices, sometimes pixels. Where an array may mean several things the
model is run on zeros, and the first meaning on which it runs is taken. So it is with an array that is not as long as
the first: k rows for each sample, or no samples at all.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from parallelize.data import Array, InputSpec
from parallelize.data.tensor_spec import TensorSpec
from passes.errors import ParallelizeError

_MOST = 24  # combinations that are tried
_EXAMPLE = 2  # samples of the zeros


def specs_of_arrays(module: nn.Module, arrays: Mapping[str | None, Array]) -> tuple[InputSpec, ...]:
    """The inputs that arrays of samples are for, by the name of the parameter, None for one by its place.

    Raises:
        ParallelizeError: an array that holds no numbers.
    """
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise ParallelizeError(
                f"The array {name or 'of the data'!r} is no array of samples.", "Save numbers, first axis samples."
            )
    count = next((len(array) for array in arrays.values() if array.ndim), 0)
    floating = next((p.dtype for p in module.parameters() if p.dtype.is_floating_point), torch.float32)
    choices = [
        [InputSpec(name, shape, dtype) for shape in _shapes(array, count) for dtype in _dtypes(array, floating)]
        for name, array in arrays.items()
    ]
    return next((specs for specs in _tried(choices) if _runs(module, specs)), tuple(found[0] for found in choices))


def _shapes(array: Array, count: int) -> list[tuple[int | str, ...]]:
    """What the axes of an array may be where there are so many samples."""
    if array.ndim == 0 or len(array) == count:
        return [("batch", *array.shape[1:])] if array.ndim else [()]
    if count > 1 and len(array) % count == 0:
        return [(f"{len(array) // count}*batch", *array.shape[1:]), array.shape]
    return [array.shape]


def _dtypes(array: Array, floating: torch.dtype) -> list[torch.dtype]:
    """What the values of an array may be, likeliest first."""
    if array.dtype.kind == "f":
        return [floating]
    if array.dtype.kind == "b":
        return [torch.bool, torch.int64, floating]
    if array.dtype.itemsize == 1 and array.dtype.kind == "u":
        return [floating, torch.int64, torch.uint8]
    same = torch.int32 if array.dtype.kind == "i" and array.dtype.itemsize == 4 else torch.int64
    return [same, floating]


def _tried(choices: Sequence[Sequence[InputSpec]]) -> Iterator[tuple[InputSpec, ...]]:
    """The combinations to try; none where there is but one."""
    if all(len(found) == 1 for found in choices):
        return iter(())
    return itertools.islice(itertools.product(*choices), _MOST)


def _runs(module: nn.Module, specs: Sequence[InputSpec]) -> bool:
    """Whether the model runs on zeros of these shapes and dtypes."""
    tensors = {
        spec.name: torch.zeros(TensorSpec("", spec.shape, spec.dtype).sizes({"batch": _EXAMPLE}), dtype=spec.dtype)
        for spec in specs
    }
    args = [tensor for name, tensor in tensors.items() if name is None]
    kwargs = {name: tensor for name, tensor in tensors.items() if name is not None}
    try:
        with torch.no_grad():
            module(*args, **kwargs)
    except Exception:  # noqa: BLE001  (the model's own code may raise anything)
        return False
    return True
