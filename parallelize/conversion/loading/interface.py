"""What a loaded network is called with, and what it gives back: named arguments in, the original's container out.

    bound     positional in the order of the inputs or by name, tensors or arrays -> one tensor for each input
    packed    one tensor for each output -> a tensor, a tuple or a dictionary

A dtype is cast where no value changes its meaning, as in data: float64 for float32, pixels of uint8 for a float. What
follows is refused by the name of the argument:

 1. an argument that the network does not have, one that is missing, one that is given twice, too many;
 2. what is no tensor; fractions for integers, integers that do not fit, anything for a mask of truth values;
 3. another number of axes, another size than a fixed one, or two sizes for one free dimension.

None stands for an argument that is not given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parallelize.data.arrays import listed
from parallelize.data.tensor_spec import TensorSpec
from parallelize.models.returned import Returned
from passes.errors import ParallelizeError

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class InputError(ParallelizeError, TypeError):
    """A network was called with what it does not take: the caller's mistake, which a service answers with a 4xx."""


@dataclass(frozen=True)
class Interface:
    """How a network is called.

    Attributes:
        label: of the network, for sentences.
        inputs: what it reads, in order.
        outputs: what it returns, in order.
        returned: in what.
    """

    label: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    returned: Returned

    def bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """One tensor for each input, in its dtype.

        Raises:
            InputError: see the module's docstring.
        """
        given = self._given(args, kwargs)
        values = [self._fitted(spec, given[spec.name]) for spec in self.inputs]
        known: dict[str, int] = {}
        for spec, value in zip(self.inputs, values, strict=True):
            self._require_rank(spec, value)
            self._note_sizes(spec, value, known)
        for spec, value in zip(self.inputs, values, strict=True):
            self._require_sizes(spec, value, known)
        return values

    def _given(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        names = [spec.name for spec in self.inputs]
        reads = f"It reads {listed(names)}."
        if len(args) > len(names):
            raise InputError(f"{self.label} was called with {len(args)} positional arguments.", reads)
        given = {name: value for name, value in zip(names, args, strict=False) if value is not None}
        for name, value in kwargs.items():
            if value is None:
                continue
            if name not in names:
                raise InputError(f"{self.label} has no argument {name!r}.", reads)
            if name in given:
                raise InputError(f"{self.label} got {name!r} by its place and by its name.", "Give it once.")
            given[name] = value
        missing = [name for name in names if name not in given]
        if missing:
            raise InputError(f"{self.label} was called without {listed(missing)}.", reads)
        return given

    def _fitted(self, spec: TensorSpec, value: Any) -> Tensor:
        if isinstance(value, np.ndarray):
            value = _tensor(value, spec.name)
        if not isinstance(value, Tensor):
            raise InputError(
                f"The argument {spec.name!r} is a {type(value).__name__}.", "Give a tensor or an array of NumPy."
            )
        if value.dtype == spec.dtype:
            return value
        _require_kind(value, spec, self.label)
        return value.to(spec.dtype)

    def _require_rank(self, spec: TensorSpec, value: Tensor) -> None:
        if value.ndim != len(spec.shape):
            raise self._shape(spec, value)

    def _note_sizes(self, spec: TensorSpec, value: Tensor, known: dict[str, int]) -> None:
        """Take the sizes of free dimensions, which are the same wherever a name stands."""
        for axis, word in enumerate(spec.shape):
            if (
                isinstance(word, str)
                and word.isidentifier()
                and known.setdefault(word, value.shape[axis]) != (value.shape[axis])
            ):
                raise InputError(
                    f"The dimension {word!r} is {value.shape[axis]} in {spec.name!r} and {known[word]} in another"
                    f" argument of {self.label}.",
                    "Pad or cut the arguments to one size.",
                )

    def _require_sizes(self, spec: TensorSpec, value: Tensor, known: Mapping[str, int]) -> None:
        for size, word in zip(value.shape, spec.shape, strict=True):
            if isinstance(word, int) and size != word:
                raise self._shape(spec, value)
            if isinstance(word, str) and not word.isidentifier():
                self._require_expression(spec, value, known)

    def _require_expression(self, spec: TensorSpec, value: Tensor, known: Mapping[str, int]) -> None:
        """Sizes such as "2*batch", where the names in them are known."""
        try:
            wanted = spec.sizes(known, other=-1)
        except (TypeError, ValueError, ArithmeticError):  # of a name that no argument tells, or of another tool
            return
        if all(size > 0 for size in wanted) and tuple(value.shape) != wanted:
            raise self._shape(spec, value)

    def _shape(self, spec: TensorSpec, value: Tensor) -> InputError:
        return InputError(
            f"The argument {spec.name!r} of {self.label} has the shape {_spelled(value.shape)}, not"
            f" {_spelled(spec.shape)}.",
            "A word stands for any size; convert the model anew with another --input to free a fixed one.",
        )


def _spelled(shape: Sequence[int | str]) -> str:
    return "x".join(map(str, shape)) or "()"


def _tensor(array: np.ndarray[Any, Any], name: str) -> Tensor:
    """The array as a tensor, which shares its memory where that is possible."""
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    if native.dtype.kind == "u" and native.dtype.itemsize > 1:  # torch has few operators for these
        native = native.astype(np.int64)
    try:
        return torch.from_numpy(np.ascontiguousarray(native) if native.flags.writeable else native.copy())
    except TypeError as error:
        raise InputError(f"The argument {name!r} is an array of {array.dtype}.", "Give an array of numbers.") from error


def _require_kind(value: Tensor, spec: TensorSpec, label: str) -> None:
    """Refuse a cast that would change what values mean."""
    wanted, found = (str(dtype).removeprefix("torch.") for dtype in (spec.dtype, value.dtype))
    if value.is_complex() or (spec.dtype not in _INTEGERS and not spec.dtype.is_floating_point):
        raise _wrong_dtype(spec, label, found, wanted)
    if spec.dtype.is_floating_point:
        return
    if value.is_floating_point():
        raise _wrong_dtype(spec, label, found, wanted)
    if value.dtype == torch.bool or not value.numel():
        return
    limits = torch.iinfo(spec.dtype)
    if torch.iinfo(value.dtype).bits < limits.bits and limits.min < 0:
        return
    least, most = int(value.min()), int(value.max())
    if least < limits.min or most > limits.max:
        raise InputError(
            f"The argument {spec.name!r} of {label} has values from {least} to {most}, which {wanted} does not hold.",
            "Give values that fit.",
        )


def _wrong_dtype(spec: TensorSpec, label: str, found: str, wanted: str) -> InputError:
    return InputError(
        f"The argument {spec.name!r} of {label} is {found}, not {wanted}.", f"Cast it: {spec.name}.to(torch.{wanted})."
    )
