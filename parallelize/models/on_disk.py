"""Large weights of a program lie in a file that is mapped into memory, so that only those in use need be there.

    read a weight       its pages come from the file
    let_go              all pages go, until they are read again

What is stored in half precision may come to lie there in float32, and then never is in memory so as a whole.

A copy of each storage is written, one at a time, but for what lies in such a file already, as what a rewritten network
shares with its teacher. Where no folder has room the weights stay in memory, which is told.
"""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import closing
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from parallelize.data.spill import folder
from parallelize.machine.byte_size import spell_size
from parallelize.machine.device import CPU
from parallelize.machine.mapped import MappedFile, is_mapped, padded
from parallelize.models.placement import device_of, moved, placed_module, stored
from parallelize.models.program import Program
from parallelize.terminal.progress import Report, Told

LEAST = 1 << 28  # bytes of weights that are worth a file
_HALF = (torch.float16, torch.bfloat16)


def on_disk(program: Program, report: Report, least: int | None = None) -> Program:
    """The program with its weights in a file, the same one where they are few or on a GPU.

    Args:
        program: it is not changed.
        report: told where there is no room.
        least: bytes of weights that are worth a file; None is LEAST.
    """
    size = _size(program.module)
    if size < (LEAST if least is None else least) or device_of(program.module) != CPU:
        return program
    try:
        with closing(MappedFile(size, folder())) as file:
            module = placed_module(program.module, CPU, lambda data: data if is_mapped(data) else file.take(data))
    except OSError as error:
        report(Told(_unplaced(size, error)), None)
        return program
    return replace(program, module=module, original=None)


def wide_on_disk(program: Program, report: Report, least: int | None = None) -> Program:
    """A program whose weights of half precision lie in a file in float32, one of few weights as it is.

    Its nodes are still of half precision: the pass that widens them finds their weights wide.

    Args:
        program: it is not changed.
        report: told where there is no room.
        least: bytes of wide weights that are worth a file; None is LEAST.
    """
    found = {(tensor.data_ptr(), tensor.shape, tensor.stride()): tensor for tensor in stored(program.module)}
    size = sum(padded(4 * tensor.numel()) for tensor in found.values() if tensor.dtype in _HALF)
    if size < (LEAST if least is None else least) or device_of(program.module) != CPU:
        return program
    try:
        with closing(MappedFile(size, folder())) as file:
            module = moved(program.module, CPU, _Widening(file))
    except OSError as error:
        report(Told(_unplaced(size, error)), None)
        return program
    return replace(program, module=module, original=None)


class _Widening:
    """Tensors of half precision in float32 in a file; those that lie in the same memory are one."""

    def __init__(self, file: MappedFile) -> None:
        self.file = file
        self._known: dict[Hashable, Tensor] = {}

    def __call__(self, tensor: Tensor) -> Tensor:
        if tensor.dtype not in _HALF:
            return tensor
        place = tensor.data_ptr(), tensor.shape, tensor.stride()
        if place not in self._known:
            self._known[place] = self._taken(tensor.detach().float())
        there = self._known[place]
        return nn.Parameter(there, requires_grad=False) if isinstance(tensor, nn.Parameter) else there

    def _taken(self, wide: Tensor) -> Tensor:
        data = torch.empty(0, dtype=torch.uint8).set_(wide.untyped_storage())
        there = self.file.take(data).view(torch.float32)
        return there.as_strided(wide.shape, wide.stride(), wide.storage_offset())


def _unplaced(size: int, error: OSError) -> str:
    why = error.strerror or str(error)
    return f"Weights of {spell_size(size)} stay in memory: {folder()} takes no file of them ({why})."


def _size(module: fx.GraphModule) -> int:
    """Bytes that the storages of a graph would take in a file, without those that are in one."""
    found: dict[int, Tensor] = {tensor.untyped_storage()._cdata: tensor for tensor in stored(module)}
    return sum(padded(tensor.untyped_storage().nbytes()) for tensor in found.values() if not is_mapped(tensor))
