"""What a model is fed: shapes as they are spelled on the command line, and samples from .npz files.

    --input  [name:]SIZExSIZE...[@dtype]      1x3x224x224    ids:batchx128@int64
    --inputs data.npz                         one array for each input, by its name, first axis samples

Integer arrays for a floating-point input are cast, never scaled: pixel values from 0 to 255 stay from 0 to 255.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from parallelize.program import TensorSpec
from passes.errors import ParallelizeError

Array = NDArray[Any]
DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
    "int64": torch.int64,
    "int32": torch.int32,
    "int16": torch.int16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
ATTENTION_MASK = "attention_mask"  # the name that models of text give to their mask of padding
UNNAMED = ""  # the name of the array of an .npy file
_SPELLING = re.compile(r"(?:(?P<name>[A-Za-z_]\w*):)?(?P<shape>\w+)(?:@(?P<dtype>\w+))?", re.ASCII)
_SIZE = re.compile(r"\d+|[A-Za-z_]\w*", re.ASCII)
_INPUT_HINT = "Spell it as [name:]SIZExSIZE...[@dtype], such as 1x3x224x224 or ids:batchx128@int64."
_SAVE_HINT = "Save the data with numpy.savez(FILE, NAME=array), one array for each input, first axis samples."


@dataclass(frozen=True)
class InputSpec:
    """The shape of one input as the user gave it.

    Attributes:
        name: the parameter of `forward` that it is for; None for an input that is passed by its place.
        shape: sizes; a string is a dimension that stays free, by its name.
        dtype: element type.
    """

    name: str | None
    shape: tuple[int | str, ...]
    dtype: torch.dtype = torch.float32


def parse_input(text: str) -> InputSpec:
    """Read `[name:]SIZExSIZE...[@dtype]`.

    A size is a number or the name of a free dimension. An x separates sizes, so no name has an x in it.

    Raises:
        ParallelizeError: another spelling, an unknown dtype, or a size of zero.
    """
    found = _SPELLING.fullmatch(text)
    parts = found["shape"].split("x") if found else []
    if found is None or any(_SIZE.fullmatch(part) is None for part in parts):
        raise ParallelizeError(f"The input {text!r} is not a shape.", _INPUT_HINT)
    dtype = found["dtype"] or "float32"
    if dtype not in DTYPES:
        raise ParallelizeError(
            f"The input {text!r} has the unknown dtype {dtype!r}.", f"Use one of {', '.join(DTYPES)}."
        )
    shape = tuple(int(part) if part.isdigit() else part for part in parts)
    if 0 in shape:
        raise ParallelizeError(f"The input {text!r} has a size of zero.", _INPUT_HINT)
    return InputSpec(found["name"], shape, DTYPES[dtype])


def parse_inputs(texts: Iterable[str] | None) -> tuple[InputSpec, ...]:
    """Read every one; None is none of them.

    Raises:
        ParallelizeError: as `parse_input`.
    """
    return tuple(parse_input(text) for text in texts or ())


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of real or random data.

    Attributes:
        arrays: one tensor for each input of the model, in the model's order, first axis samples.
        labels: class labels (n,) of int64, or None.
        mask: name of the input (n, tokens) that is 0 at padding, or None where nothing is padded.
    """

    arrays: Mapping[str, Tensor]
    labels: Tensor | None = None
    mask: str | None = None

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def take(self, indices: Tensor | Sequence[int]) -> Samples:
        """Some of the samples, in the order of `indices`."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        chosen = {name: array[index] for name, array in self.arrays.items()}
        return Samples(chosen, None if self.labels is None else self.labels[index], self.mask)

    def head(self, count: int) -> Samples:
        """The first samples, at most `count`."""
        first = {name: array[:count] for name, array in self.arrays.items()}
        return Samples(first, None if self.labels is None else self.labels[:count], self.mask)

    def batches(self, size: int) -> Iterator[tuple[Tensor, ...]]:
        """Input tuples of at most `size` samples, in the order of the model's inputs."""
        for start in range(0, len(self), size):
            yield tuple(array[start : start + size] for array in self.arrays.values())

    def real(self, size: int) -> Iterator[Tensor | None]:
        """For each of `batches(size)` where tokens are real, bool (n, tokens), or None where nothing is padded."""
        mask = None if self.mask is None else self.arrays[self.mask] != 0
        for start in range(0, len(self), size):
            yield None if mask is None else mask[start : start + size]


def readable(path: Path) -> Path:
    """The path of a file that can be opened.

    Raises:
        ParallelizeError: it does not exist, is a directory, or may not be read.
    """
    try:
        path.open("rb").close()
    except FileNotFoundError:
        raise ParallelizeError(f"{path} does not exist.", "Check the path.") from None
    except IsADirectoryError:
        raise ParallelizeError(f"{path} is a directory.", "Name a file.") from None
    except OSError as error:
        raise ParallelizeError(f"{path} cannot be read: {error.strerror}.", "Check who may read the file.") from error
    return path


def read_arrays(path: Path) -> dict[str, Array]:
    """Read all arrays of an .npz by their names, or the array of an .npy under the name UNNAMED.

    Raises:
        ParallelizeError: the file is absent, damaged, of another kind, or holds Python objects.
    """
    if path.suffix not in (".npz", ".npy"):
        raise ParallelizeError(f"{path} is neither .npz nor .npy.", _SAVE_HINT)
    readable(path)
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {UNNAMED: loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        what = "holds Python objects, which are not read" if "allow_pickle" in str(error) else "is damaged"
        raise ParallelizeError(f"{path} {what}.", _SAVE_HINT) from error


def load_samples(
    path: Path, program_inputs: Sequence[TensorSpec], labels: str | None = None, mask: str | None = None
) -> Samples:
    """Read samples for a model.

    Args:
        path: .npz with one array for each input by its name; an .npy will do for a model of one input.
        program_inputs: what the model reads.
        labels: name of the array of class labels.
        mask: name of the input that is 0 at padding; without it `attention_mask` where it is one of zeros and ones.

    Raises:
        ParallelizeError: a missing array, a wrong shape, dtype or length, a value that the input's dtype cannot hold,
            NaN or infinity, no sample at all, or a mask that masks everything.
    """
    arrays = read_arrays(path)
    if set(arrays) == {UNNAMED} and len(program_inputs) == 1:
        arrays = {program_inputs[0].name: arrays[UNNAMED]}
    missing = [spec.name for spec in program_inputs if spec.name not in arrays]
    if missing:
        raise ParallelizeError(
            f"{path} has no array {_listed(missing)}: it holds {_listed(arrays)},"
            f" the model reads {_listed(spec.name for spec in program_inputs)}.",
            _SAVE_HINT.replace("NAME", missing[0]),
        )
    tensors = {spec.name: _fitted(arrays[spec.name], spec, path) for spec in program_inputs}
    _require_equal_sizes(tensors, program_inputs, path)
    count = len(next(iter(tensors.values())))
    if count == 0:
        raise ParallelizeError(f"{path} holds no samples.", _SAVE_HINT)
    found = _mask(tensors, mask, path)
    return Samples(tensors, None if labels is None else _labels(arrays, labels, count, path), found)


def random_samples(specs: Sequence[TensorSpec], count: int, seed: int) -> Samples:
    """Seeded random samples: normal numbers for floats, 0 or 1 for the rest; free dimensions but the first get 16.

    A mask, told by its name, is all ones: where a whole row is masked, runtimes do not agree on what softmax gives.

    Raises:
        ParallelizeError: an input without an axis for samples.
    """
    generator = torch.Generator().manual_seed(seed)
    arrays = {}
    for spec in specs:
        if not spec.shape:
            raise ParallelizeError(
                f"The input {spec.name!r} is a single number: it has no axis of samples.", _SAVE_HINT
            )
        shape = (count, *spec.sizes({})[1:])
        if spec.dtype.is_floating_point:
            arrays[spec.name] = torch.randn(shape, generator=generator).to(spec.dtype)
        elif "mask" in spec.name:
            arrays[spec.name] = torch.ones(shape, dtype=spec.dtype)
        else:
            arrays[spec.name] = torch.randint(0, 2, shape, generator=generator).to(spec.dtype)
    return Samples(arrays)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) if name else "an array without a name" for name in names) or "nothing"


def _fitted(array: Array, spec: TensorSpec, path: Path) -> Tensor:
    """An array as the model wants it: shape checked, dtype cast, every value kept."""
    _require_shape(array, spec, path)
    wanted = str(spec.dtype).removeprefix("torch.")
    if array.dtype.kind not in "fiub":
        raise ParallelizeError(
            f"The array {spec.name!r} of {path} holds {array.dtype} values, the model reads {wanted}.", "Save numbers."
        )
    if array.dtype.kind == "f" and not spec.dtype.is_floating_point:
        raise ParallelizeError(
            f"The array {spec.name!r} of {path} is {array.dtype}, the model reads {wanted}.",
            "Cast the array before it is saved.",
        )
    if not spec.dtype.is_floating_point:
        _require_range(array, spec, path)
    tensor = _tensor(array).to(spec.dtype)
    if spec.dtype.is_floating_point and array.dtype.kind == "f":
        bad = (~tensor.isfinite()).reshape(len(tensor), -1).any(1) if tensor.numel() else torch.zeros(0)
        if bad.any():
            first = int(bad.int().argmax())
            raise ParallelizeError(
                f"The array {spec.name!r} of {path} has NaN or infinity as {wanted}, first in sample {first}.",
                "Remove these samples or mend them.",
            )
    return tensor


def _require_shape(array: Array, spec: TensorSpec, path: Path) -> None:
    fits = array.ndim == len(spec.shape) > 0 and all(
        isinstance(want, str) or want == have for want, have in zip(spec.shape[1:], array.shape[1:], strict=True)
    )
    if fits:
        return
    have, want = ("x".join(map(str, shape)) or "a single number" for shape in (array.shape, spec.shape))
    raise ParallelizeError(
        f"The array {spec.name!r} of {path} has the shape {have}, the model reads {want}.",
        "The first axis counts samples; the others must be as the model reads them.",
    )


def _require_range(array: Array, spec: TensorSpec, path: Path) -> None:
    """Integers that the input's dtype cannot hold would wrap around."""
    if array.size == 0:
        return
    is_bool = spec.dtype == torch.bool
    low, high = (0, 1) if is_bool else (torch.iinfo(spec.dtype).min, torch.iinfo(spec.dtype).max)
    least, most = int(array.min()), int(array.max())
    if least < low or most > high:
        raise ParallelizeError(
            f"The array {spec.name!r} of {path} has values from {least} to {most},"
            f" the model reads {str(spec.dtype).removeprefix('torch.')}.",
            "Save values that fit.",
        )


def _tensor(array: Array) -> Tensor:
    """NumPy's wide floats and foreign byte orders are none of PyTorch's."""
    wide = array.dtype.kind == "f" and array.dtype.itemsize > 8
    native = array.astype(np.float64) if wide else array.astype(array.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(np.ascontiguousarray(native))


def _require_equal_sizes(tensors: Mapping[str, Tensor], specs: Sequence[TensorSpec], path: Path) -> None:
    """All inputs have the same samples, and a free dimension is as long in all of them."""
    lengths = {name: len(tensor) for name, tensor in tensors.items()}
    if len(set(lengths.values())) > 1:
        differ = ", ".join(f"{name!r} has {length}" for name, length in lengths.items())
        raise ParallelizeError(f"The arrays of {path} differ in their number of samples: {differ}.", _SAVE_HINT)
    seen: dict[str, tuple[str, int]] = {}
    for spec in specs:
        for want, have in zip(spec.shape[1:], tensors[spec.name].shape[1:], strict=True):
            if not isinstance(want, str):
                continue
            first, size = seen.setdefault(want, (spec.name, have))
            if size != have:
                raise ParallelizeError(
                    f"The dimension {want!r} is {size} in the array {first!r} of {path} and {have} in {spec.name!r}.",
                    "Pad the arrays to one length.",
                )


def _mask(tensors: Mapping[str, Tensor], wanted: str | None, path: Path) -> str | None:
    """The name of the mask of padding: the wanted one, or `attention_mask` where nothing speaks against it."""
    if wanted is None:
        mask = tensors.get(ATTENTION_MASK)
        plain = mask is not None and mask.ndim == 2 and bool(((mask == 0) | (mask == 1)).all()) and bool(mask.any())
        return ATTENTION_MASK if plain else None
    if wanted not in tensors:
        raise ParallelizeError(
            f"The model has no input {wanted!r}: it reads {_listed(tensors)}.", "Name the mask of padding with --mask."
        )
    mask = tensors[wanted]
    if mask.ndim != 2:
        raise ParallelizeError(
            f"The mask {wanted!r} has the shape {'x'.join(map(str, mask.shape))}.",
            "A mask of padding has two axes, samples and tokens, and is 0 at padding.",
        )
    if not mask.any():
        raise ParallelizeError(
            f"The mask {wanted!r} of {path} is 0 everywhere.", "A mask is 0 at padding and 1 elsewhere."
        )
    return wanted


def _labels(arrays: Mapping[str, Array], name: str, count: int, path: Path) -> Tensor:
    if name not in arrays:
        raise ParallelizeError(
            f"{path} has no array of labels {name!r}: it holds {_listed(arrays)}.", "Name the array with --labels."
        )
    labels = arrays[name]
    if labels.ndim != 1 or len(labels) != count or labels.dtype.kind not in "iu":
        raise ParallelizeError(
            f"The labels {name!r} of {path} are {labels.dtype} of the shape {'x'.join(map(str, labels.shape))}.",
            f"One integer for each of the {count} samples is needed.",
        )
    return torch.from_numpy(labels.astype(np.int64))
