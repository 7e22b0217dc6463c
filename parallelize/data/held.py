"""Data in memory, as a user holds it, becomes arrays with samples on their first axis.

    {"input_ids": a, "attention_mask": b}    arrays, tensors or lists by names of inputs, as a tokenizer returns them
    a                                        an array or tensor, for a model of one input
    [batch, ...], a DataLoader, a generator  batches: such a dictionary, a tuple in the order of inputs, or one tensor
    a dataset of Hugging Face, or a column   arrays by the names of columns; a column is for a model of one input

Batches are put one behind another. Where each was padded to its own length, all are padded with zeros to the longest,
which needs an `attention_mask` that says so. A tuple's place in the order is its name, "0", "1", ...: what comes behind
the inputs of a model is not read, unless it is named, such as labels="1".

Refused: no batch at all, batches that hold different things, arrays that cannot be one because of their shapes, and
single samples one after another, as a `Dataset` of torch gives them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from passes.errors import ParallelizeError

Array = NDArray[Any]
UNNAMED = ""  # the name of an array that came without one
MASK = "attention_mask"  # 0 where a batch was padded
_HINT = "Give arrays by the names of the inputs, batches of them, or the path of an .npz."


@dataclass(frozen=True, eq=False)
class HeldArrays:
    """Arrays by name, first axis samples.

    Attributes:
        arrays: by the name of the input, by place ("0", "1", ...), or one of UNNAMED.
    """

    arrays: Mapping[str, Array]

    def __str__(self) -> str:
        return "the data"

    def named(self, names: Sequence[str]) -> HeldArrays:
        """The arrays that were told by their places under these names, as far as there are any."""
        if UNNAMED in self.arrays or not all(name.isdecimal() for name in self.arrays):
            return self
        called = dict(enumerate(names))
        return HeldArrays({called.get(int(place), place): array for place, array in self.arrays.items()})


def held(value: Any) -> HeldArrays:
    """The arrays in what a user holds.

    Raises:
        ParallelizeError: see the module's docstring.
    """
    if isinstance(value, HeldArrays):
        return value
    columns = getattr(value, "column_names", None)
    if isinstance(columns, Mapping):
        raise ParallelizeError(f"The data is split into {', '.join(map(repr, columns))}.", "Give one of these parts.")
    if _is_batch(value):
        return HeldArrays(_batch(value))
    if isinstance(value, torch.utils.data.Dataset):
        raise ParallelizeError(
            f"A {type(value).__name__} gives samples one by one.", "Give DataLoader(dataset, batch_size=64)."
        )
    if columns is not None and hasattr(value, "__getitem__"):  # a dataset of Hugging Face
        return HeldArrays({str(name): _array(value[name]) for name in columns})
    if not isinstance(value, Iterable) or isinstance(value, str | bytes):
        raise ParallelizeError(f"A {type(value).__name__} is no data.", _HINT)
    if hasattr(value, "column_name"):  # a column of one
        return HeldArrays({UNNAMED: _array(value)})
    return HeldArrays(_joined([_batch(batch) for batch in value]))


def _is_batch(value: Any) -> bool:
    return isinstance(value, Mapping | Tensor | np.ndarray)


def _batch(batch: Any) -> dict[str, Array]:
    """The arrays of one batch."""
    if isinstance(batch, Mapping):
        return {str(name): _array(value) for name, value in batch.items() if value is not None}
    if isinstance(batch, Tensor | np.ndarray):
        return {UNNAMED: _array(batch)}
    if isinstance(batch, tuple | list) and all(_is_batch(value) and not isinstance(value, Mapping) for value in batch):
        arrays = [_array(value) for value in batch]
        return {UNNAMED: arrays[0]} if len(arrays) == 1 else {str(place): each for place, each in enumerate(arrays)}
    raise ParallelizeError(f"A batch of the data is a {type(batch).__name__} that holds no tensors.", _HINT)


def _array(value: Any) -> Array:
    """A tensor, an array or (nested) lists of numbers as an array; of objects where it is none."""
    if isinstance(value, Tensor):
        plain = value.detach().cpu()
        return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    if isinstance(value, np.ndarray) and not value.flags.writeable:
        return value.copy()  # torch, which reads it in place, would warn
    items = value if isinstance(value, np.ndarray) else list(value) if isinstance(value, Iterable) else value
    if isinstance(items, list) and items and all(isinstance(item, Tensor) for item in items):
        items = [_array(item) for item in items]
    try:
        return np.asarray(items)
    except ValueError:  # rows of several lengths: whether that matters depends on what the model reads
        return np.empty(len(items), dtype=object)


def _joined(batches: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """The arrays of all batches, one behind another."""
    if not batches:
        raise ParallelizeError("The data holds no batch.", _HINT)
    first = batches[0]
    other = next((batch for batch in batches if batch.keys() != first.keys()), None)
    if other is not None:
        name = min(first.keys() ^ other.keys())
        raise ParallelizeError(f"Some batches of the data hold {name or 'one tensor'!r} and others do not.", _HINT)
    padded = _padded(batches)
    return {name: _concatenated(name, [batch[name] for batch in padded]) for name in first}


def _concatenated(name: str, parts: Sequence[Array]) -> Array:
    if parts[0].ndim == 0:  # such as the number of a batch
        return np.asarray(parts)
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) > 1:
        one, other = sorted(shapes)[:2]
        raise ParallelizeError(
            f"Samples of {name or 'the data'!r} are {_spelled(one)} in one batch and {_spelled(other)} in another.",
            f"Bring them to one shape; batches of texts are padded where they hold an {MASK!r}.",
        )
    return np.concatenate(parts)


def _padded(batches: Sequence[Mapping[str, Array]]) -> Sequence[Mapping[str, Array]]:
    """Batches that were padded to a length of their own, padded to the longest."""
    if any(batch.get(MASK, np.empty(0)).ndim != 2 for batch in batches):
        return batches
    longest = max(batch[MASK].shape[1] for batch in batches)
    return [{name: _longer(array, batch[MASK], longest) for name, array in batch.items()} for batch in batches]


def _longer(array: Array, mask: Array, length: int) -> Array:
    """An array of tokens with zeros behind them; anything else as it is."""
    if array.shape[:2] != mask.shape or array.shape[1] == length:
        return array
    return np.pad(array, [(0, 0), (0, length - array.shape[1]), *[(0, 0)] * (array.ndim - 2)])


def _spelled(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "single numbers"
