"""Samples from files or memory, held to what the model reads: shapes, lengths, values that its dtypes can hold.

Values stay as they are stored; batches are cast. What the cast would change in meaning is refused: integers that do not
fit, fractions for integers, floats that overflow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from parallelize.data.arrays import SAVE_HINT, Stored, listed, read_arrays, read_headers
from parallelize.data.held import UNNAMED, Array, HeldArrays
from parallelize.data.roles import Roles, of_arrays
from parallelize.data.samples import Samples
from parallelize.data.tensor_spec import TensorSpec
from passes.errors import ParallelizeError

ATTENTION_MASK = "attention_mask"  # the name that models of text give to their mask of padding
_PIECE = 2**22  # elements that are checked at a time
_OTHERS = {np.dtype(name): np.dtype(wide) for name, wide in (("u2", "i4"), ("u4", "i8"), ("u8", "i8"))}


def load_samples(
    path: Stored, program_inputs: Sequence[TensorSpec], labels: str | None = None, mask: str | None = None
) -> Samples:
    """Read samples for a model.

    Args:
        path: .npz with one array for each input by its name, or such arrays in memory; an .npy will do for a model of
            one input.
        program_inputs: what the model reads.
        labels: name of the array of class labels.
        mask: name of the input that is 0 at padding; without it `attention_mask` where it is one of zeros and ones.

    Raises:
        ParallelizeError: a missing array, a wrong shape, dtype or length, a value that the input's dtype cannot hold,
            NaN or infinity, no sample at all, or a mask that masks everything.
    """
    if isinstance(path, HeldArrays):
        path = path.named([spec.name for spec in program_inputs])
    headers = _named(read_headers(path), program_inputs)
    missing = [spec.name for spec in program_inputs if spec.name not in headers]
    if missing:
        raise ParallelizeError(
            f"{path} has no array {listed(missing)}: it holds {listed(headers)},"
            f" the model reads {listed(spec.name for spec in program_inputs)}.",
            SAVE_HINT.replace("NAME", missing[0]),
        )
    for spec in program_inputs:
        _require_kind(headers[spec.name], spec, path)
    roles = of_arrays(program_inputs, {name: array.shape for name, array in headers.items()}, str(path))
    _require_equal_sizes(headers, program_inputs, roles, path)
    if roles.count == 0:
        raise ParallelizeError(f"{path} holds no samples.", SAVE_HINT)
    wanted = [UNNAMED, *(spec.name for spec in program_inputs), *([] if labels is None else [labels])]
    arrays = _named(read_arrays(path, wanted), program_inputs)
    found = None if labels is None else _labels({**headers, **arrays}, labels, roles.count, path)
    tensors = {spec.name: _fitted(arrays.pop(spec.name), spec, path) for spec in program_inputs}
    samples = Samples(tensors, found, None, roles.feeds, roles.fixed)
    return Samples(tensors, found, _mask(samples, mask, path), roles.feeds, roles.fixed)


def _named(arrays: Mapping[str, Array], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """The array of an .npy under the name of the only input."""
    if set(arrays) == {UNNAMED} and len(specs) == 1:
        return {specs[0].name: arrays[UNNAMED]}
    return dict(arrays)


def _require_kind(array: Array, spec: TensorSpec, path: Stored) -> None:
    if array.dtype.kind not in "fiub":
        wanted = str(spec.dtype).removeprefix("torch.")
        raise ParallelizeError(
            f"The array {spec.name!r} of {path} holds {array.dtype} values, the model reads {wanted}.", "Save numbers."
        )


def _fitted(array: Array, spec: TensorSpec, path: Stored) -> Tensor:
    """An array as it is stored, every value of which the model's dtype can hold."""
    if array.size == 0:
        return _tensor(array)
    if not spec.dtype.is_floating_point:
        _require_range(array, spec, path)
        return _tensor(array) if array.dtype.kind != "f" else _tensor(array.astype(np.int64))
    tensor = _tensor(array)
    if array.dtype.kind == "f":
        _require_finite(tensor, spec, path)
    return tensor


def _require_finite(tensor: Tensor, spec: TensorSpec, path: Stored) -> None:
    start = 0
    for piece in _pieces(tensor):
        bad = ~piece.to(spec.dtype).isfinite()
        if bad.any():
            first = start + int(bad.reshape(len(bad), -1).any(1).int().argmax())
            wanted = str(spec.dtype).removeprefix("torch.")
            raise ParallelizeError(
                f"The array {spec.name!r} of {path} has NaN or infinity as {wanted}, first in sample {first}.",
                "Remove these samples or mend them.",
            )
        start += len(piece)


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    whole = tensor if tensor.ndim else tensor[None]
    return iter(torch.split(whole, max(1, _PIECE // max(1, whole[0].numel()))))


def _require_range(array: Array, spec: TensorSpec, path: Stored) -> None:
    """Integers that the input's dtype cannot hold would wrap around, and fractions would be cut off."""
    wanted = str(spec.dtype).removeprefix("torch.")
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.trunc(array)).all()):
        raise ParallelizeError(
            f"The array {spec.name!r} of {path} is {array.dtype} with fractions, the model reads {wanted}.",
            "Cast the array before it is saved.",
        )
    is_bool = spec.dtype == torch.bool
    low, high = (0, 1) if is_bool else (torch.iinfo(spec.dtype).min, torch.iinfo(spec.dtype).max)
    least, most = int(array.min()), int(array.max())
    if least < low or most > high:
        raise ParallelizeError(
            f"The array {spec.name!r} of {path} has values from {least} to {most}, the model reads {wanted}.",
            "Save values that fit.",
        )


def _tensor(array: Array) -> Tensor:
    """NumPy's wide floats, unsigned integers and foreign byte orders are none that PyTorch computes with."""
    native = array.dtype.newbyteorder("=")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        native = np.dtype(np.float64)
    return torch.from_numpy(np.asarray(array).astype(_OTHERS.get(native, native), copy=False))


def _require_equal_sizes(arrays: Mapping[str, Array], specs: Sequence[TensorSpec], roles: Roles, path: Stored) -> None:
    """A free dimension is as long in all inputs."""
    seen: dict[str, tuple[str, int]] = {}
    for spec in specs:
        inner = spec.shape if roles.feeds[spec.name].is_bare else spec.shape[1:]
        for want, have in zip(inner, arrays[spec.name].shape[1:], strict=True):
            if not isinstance(want, str) or not want.isidentifier():
                continue
            first, size = seen.setdefault(want, (spec.name, have))
            if size != have:
                raise ParallelizeError(
                    f"The dimension {want!r} is {size} in the array {first!r} of {path} and {have} in {spec.name!r}.",
                    "Pad the arrays to one length.",
                )


def _mask(samples: Samples, wanted: str | None, path: Stored) -> str | None:
    """The name of the mask of padding: the wanted one, or `attention_mask` where nothing speaks against it."""
    tensors = samples.stored
    if wanted is None:
        mask = tensors.get(ATTENTION_MASK)
        plain = mask is not None and mask.ndim == 2 and bool(((mask == 0) | (mask == 1)).all()) and bool(mask.any())
        return ATTENTION_MASK if plain and samples.feed(ATTENTION_MASK).rows == 1 else None
    if wanted not in tensors:
        raise ParallelizeError(
            f"The model has no input {wanted!r}: it reads {listed(tensors)}.", "Name the mask of padding with --mask."
        )
    mask = tensors[wanted]
    if mask.ndim != 2 or samples.feed(wanted).rows != 1:
        raise ParallelizeError(
            f"The mask {wanted!r} has the shape {'x'.join(map(str, mask.shape))}.",
            "A mask of padding has two axes, samples and tokens, and is 0 at padding.",
        )
    if not mask.any():
        raise ParallelizeError(
            f"The mask {wanted!r} of {path} is 0 everywhere.", "A mask is 0 at padding and 1 elsewhere."
        )
    return wanted


def _labels(arrays: Mapping[str, Array], name: str, count: int, path: Stored) -> Tensor:
    if name not in arrays:
        raise ParallelizeError(
            f"{path} has no array of labels {name!r}: it holds {listed(arrays)}.", "Name the array with --labels."
        )
    labels = arrays[name]
    if labels.ndim != 1 or len(labels) != count or labels.dtype.kind not in "iu":
        raise ParallelizeError(
            f"The labels {name!r} of {path} are {labels.dtype} of the shape {'x'.join(map(str, labels.shape))}.",
            f"One integer for each of the {count} samples is needed.",
        )
    return torch.from_numpy(labels.astype(np.int64))
