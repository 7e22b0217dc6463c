"""A second device for machines that have none: its tensors are computed on the CPU, and mixing them with others raises.

While an `OtherDevice` is entered, what is made on it, or moved to it, is an ordinary tensor whose storage is marked. It
says that it is on that device, and so does all that is computed of it. As on a GPU an operation refuses tensors of two
devices, but for

    1. numbers: tensors of the CPU without axes;
    2. copies from one device to the other;
    3. indices of the CPU into a tensor of the device;
    4. giving a tensor the data of one there, as a module does that moves.

Nor does the device give arrays of NumPy, or draw numbers by a generator of the CPU. Example values of the device are
made so that torch refuses to mix them by itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

SWITCH = "PARALLELIZE_TEST_DEVICE"
OTHER = torch.device("lazy", 0)  # of the devices that torch knows, one whose example values need no driver
_CPU = torch.device("cpu")
_ARRAYS = (Tensor.numpy, Tensor.__array__)
_INDEXED = (Tensor.__getitem__, Tensor.__setitem__, torch.ops.aten.index.Tensor)
_COPIES = (Tensor.copy_, torch.ops.aten.copy_.default, torch.ops.aten.copy.default, Tensor.data.__set__)  # type: ignore[attr-defined]
_ASKED = {
    *("size", "stride", "dim", "numel", "element_size", "storage_offset", "untyped_storage", "is_contiguous"),
    *("is_floating_point", "is_complex", "is_inference", "data_ptr", "_is_view", "is_set_to"),
    *("_parse_to", "_has_compatible_shallow_copy_type"),  # of a module that moves
}
_example_of = FakeTensorMode.from_tensor


@contextmanager
def other_device() -> Iterator[torch.device]:
    """A device that is not the default: that of PARALLELIZE_TEST_DEVICE, such as cuda; without it a simulated one."""
    named = os.environ.get(SWITCH)
    if named is not None:
        device = torch.device(named)
        yield torch.device("cuda", device.index or 0) if device.type == "cuda" else device
        return
    with OtherDevice() as mode, patch.object(FakeTensorMode, "from_tensor", mode.from_tensor()):
        yield OTHER


class OtherDevice(TorchFunctionMode):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self.is_off = False  # while torch describes a tensor, which it does not do for this kind of device
        self.examples: dict[tuple[int, int], tuple[Tensor, FakeTensor]] = {}

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.is_off or _asks(func):
            is_device = not self.is_off and func == Tensor.device.__get__ and _is_there(args[0])  # type: ignore[attr-defined]
            return OTHER if is_device else func(*args, **kwargs)
        if func is Tensor.pin_memory:
            return args[0].clone()
        leaves = pytree.tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        mode = _mode_of_examples(tensors)
        if mode is not None:
            if any(map(_is_there, tensors)):
                args, kwargs = pytree.tree_map(lambda value: self._example(value, mode), (args, kwargs))
            return func(*args, **kwargs)
        wanted = _wanted(func, args, kwargs, leaves)
        _refuse(func, args, kwargs, tensors, wanted)
        before = [tensor.untyped_storage() for tensor in tensors if tensor.layout is torch.strided]
        if wanted is not None:
            args, kwargs = pytree.tree_map(_here, (args, kwargs))
        result = func(*args, **kwargs)
        there = any(map(_is_there, tensors)) if wanted is None else wanted.type == OTHER.type
        if isinstance(result, Tensor):
            return _marked(result, there, before, func)
        if isinstance(result, tuple | list):
            return pytree.tree_map(lambda value: _marked(value, there, before, func), result)
        return result

    def from_tensor(self) -> Any:
        """What stands for FakeTensorMode.from_tensor meanwhile."""

        def from_tensor(mode: FakeTensorMode, tensor: Tensor, **options: Any) -> FakeTensor:
            if isinstance(tensor, FakeTensor):
                return tensor
            return self._made(mode, tensor, options) if _is_there(tensor) else _example_of(mode, tensor, **options)

        return from_tensor

    def _example(self, value: Any, mode: FakeTensorMode) -> Any:
        """Torch makes an example of a tensor that meets some: here, so that it is on the device."""
        there = isinstance(value, Tensor) and _is_there(value)
        return self._made(mode, value, {"static_shapes": True}) if there else value

    def _made(self, mode: FakeTensorMode, tensor: Tensor, options: dict[str, Any]) -> FakeTensor:
        key = id(mode), id(tensor)
        if key not in self.examples:
            self.is_off = True
            try:
                with torch.no_grad(), mode:
                    self.examples[key] = tensor, _example_of(mode, tensor, **options).to(OTHER)
            finally:
                self.is_off = False
        return self.examples[key][1]


def _asks(func: Any) -> bool:
    """Whether a call only asks what a tensor is like."""
    name = getattr(func, "__name__", "")
    if name != "__get__":
        return name in _ASKED
    return getattr(func.__self__, "__name__", "") not in ("T", "mT", "H", "mH", "real", "imag", "grad", "data", "_base")


def _is_there(tensor: Tensor) -> bool:
    if isinstance(tensor, FakeTensor) or tensor.layout is not torch.strided or tensor.is_meta:
        return False
    return getattr(tensor.untyped_storage(), "is_there", False)


def _mode_of_examples(tensors: Sequence[Tensor]) -> FakeTensorMode | None:
    """The mode of a call that is torch's own, on values that have no numbers."""
    active = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE)
    return active or next((tensor.fake_mode for tensor in tensors if isinstance(tensor, FakeTensor)), None)


def _wanted(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], leaves: Sequence[Any]) -> torch.device | None:
    """The device that a call names."""
    if func is Tensor.cpu:
        return _CPU
    named = kwargs.get("device")
    if named is None and func is Tensor.to:
        named = next((arg for arg in args[1:] if isinstance(arg, str)), None)
        like = next((arg for arg in args[1:] if isinstance(arg, Tensor)), None)
        named = named if like is None else (OTHER if _is_there(like) else _CPU)
    if named is not None:
        return torch.device(named)
    return next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)


def _here(value: Any) -> Any:
    """What is named is there; what is computed is here."""
    return _CPU if isinstance(value, torch.device) and value.type == OTHER.type else value


def _refuse(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: Sequence[Tensor], wanted: torch.device | None
) -> None:
    there = [_is_there(tensor) for tensor in tensors]
    if func in _ARRAYS and any(there):
        raise TypeError("A tensor of the other device is no array: move it to the CPU first.")
    if wanted is not None:
        if wanted.type == OTHER.type and kwargs.get("generator") is not None:
            raise RuntimeError("The other device draws no numbers by a generator of the CPU.")
        return
    if not any(there) or func in _COPIES or (func in _INDEXED and there[0]):
        return
    alien = [tensor for tensor, is_there in zip(tensors, there, strict=True) if not is_there and tensor.ndim]
    written = bool(args) and isinstance(args[0], Tensor) and not there[0] and _writes(func)
    if alien or written:
        raise RuntimeError(f"{func} got tensors of two devices, of the shapes {[tuple(t.shape) for t in tensors]}.")


def _writes(func: Any) -> bool:
    name = str(getattr(func, "__name__", ""))
    return name.partition(".")[0].endswith("_") and not name.endswith("__")


def _marked(value: Any, there: bool, before: Sequence[Any], func: Any) -> Any:
    """A result on its device; where it shares memory with an argument of the other one, a copy of it."""
    if not isinstance(value, Tensor) or isinstance(value, FakeTensor) or value.layout is not torch.strided:
        return value
    if value.is_meta or _is_there(value) == there or func in _COPIES or func is Tensor.__setitem__:
        return value
    if any(value.untyped_storage()._cdata == known._cdata for known in before):
        value = value.clone()
    value.untyped_storage().is_there = there
    return value
