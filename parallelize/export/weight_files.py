"""Where the weights of ONNX files lie.

    inside          the .onnx file itself, while they are small: a protobuf ends at 2 GiB
    beside          NAME.onnx.data
    shared          of several files in one folder, what the first of them has already: its NAME.onnx.data

A file that reads weights of another is for the moment. Its contents become a file of their own with `gathered`.
Subgraphs, such as the branches of control flow, have weights as the main graph has. One weight at a time is in memory.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import torch
from onnx_ir import external_data

INLINE_LIMIT = 1 << 29  # bytes of weights that go into the .onnx file itself
_LEAST = 1024  # bytes of a weight that is worth a place in another file


def save(model: onnx_ir.Model, path: Path, shared: SharedWeights | None = None) -> None:
    """Write a model with its weights.

    Args:
        model: whose weights may be views of tensors; it is not changed.
        path: the .onnx file.
        shared: the weights of its folder; None is a file that is whole, alone or with one file of weights beside it.
    """
    if shared is None:
        is_large = sum(weight.nbytes for _, weight in _weights(model)) >= INLINE_LIMIT
        onnx_ir.save(model, path, external_data=beside(path) if is_large else None)
        return
    before = list(_weights(model))
    try:
        shared.place(model, path)
        onnx_ir.save(model, path)
    finally:
        for value, weight in before:
            value.const_value = weight


def gathered(source: Path, path: Path) -> None:
    """Write an ONNX file that reads weights of others as one that is whole."""
    model = onnx_ir.load(source)
    if sum(weight.nbytes for _, weight in _weights(model)) < INLINE_LIMIT:
        external_data.load_to_model(model)
    save(model, path)


def size_of(path: Path) -> int:
    """Bytes of an ONNX file and of all weights that it reads."""
    held = (weight for _, weight in _weights(onnx_ir.load(path)))
    return path.stat().st_size + sum(w.nbytes for w in held if isinstance(w, onnx_ir.ExternalTensor))


class SharedWeights:
    """What the first ONNX file of a folder has, for those that come later and have some of the same tensors."""

    def __init__(self) -> None:
        self._places: dict[Hashable, onnx_ir.ExternalTensor] = {}
        self._alive: list[Any] = []  # so that no other tensor comes to lie where one of these is
        self._is_first = True

    def place(self, model: onnx_ir.Model, path: Path) -> None:
        """Let the weights of a model lie beside its file, but for those that the first file has."""
        fresh: list[tuple[onnx_ir.Value, onnx_ir.TensorProtocol]] = []
        for value, weight in _weights(model):
            if weight.nbytes < _LEAST:
                continue
            known = self._places.get(_identity(weight))
            if known is None:
                fresh.append((value, weight))
            else:
                value.const_value = _as(known, value.name)
        if not fresh:
            return
        written = external_data.convert_tensors_to_external([weight for _, weight in fresh], path.parent, beside(path))
        for (value, weight), there in zip(fresh, written, strict=True):
            value.const_value = there
            identity = _identity(weight)
            if self._is_first and identity is not None:
                self._places[identity] = there
                self._alive.append(weight.raw)
        self._is_first = False


def _as(weight: onnx_ir.ExternalTensor, name: str | None) -> onnx_ir.ExternalTensor:
    """The same place in the same file by another name."""
    place = weight.location, weight.offset, weight.length, weight.dtype
    return onnx_ir.ExternalTensor(*place, shape=weight.shape, name=name or "", base_dir=weight.base_dir)


def beside(path: Path) -> str:
    """The file of the weights that lie beside an ONNX file."""
    return f"{path.name}.data"


def _weights(model: onnx_ir.Model) -> Iterator[tuple[onnx_ir.Value, onnx_ir.TensorProtocol]]:
    """The stored values of all graphs of a model."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value, value.const_value


def _identity(weight: onnx_ir.TensorProtocol) -> Hashable | None:
    """Where a tensor of torch, or a view of one in NumPy, lies in memory, and how; None for anything else."""
    raw = getattr(weight, "raw", None)
    if isinstance(raw, torch.Tensor):
        size = raw.element_size()
        return raw.data_ptr(), weight.dtype, tuple(raw.shape), tuple(step * size for step in raw.stride())
    if isinstance(raw, np.ndarray):
        return raw.ctypes.data, weight.dtype, raw.shape, raw.strides
    return None
