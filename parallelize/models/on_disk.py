"""Large weights of a program lie in a file that is mapped into memory, so that only those in use need be there.

    read a weight       its pages come from the file
    let_go              all pages go, until they are read again

A copy of each storage is written, one at a time, but for what lies in such a file already, as what a rewritten network
shares with its teacher. Where no folder has room the weights stay in memory, which is told.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, fx

from parallelize.data.spill import folder
from parallelize.machine.byte_size import spell_size
from parallelize.machine.device import CPU
from parallelize.machine.mapped import MappedFile, is_mapped, padded
from parallelize.models.placement import device_of, placed_module, stored
from parallelize.models.program import Program
from parallelize.terminal.progress import Report, Told

LEAST = 1 << 28  # bytes of weights that are worth a file


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
        file = MappedFile(size, folder())
        module = placed_module(program.module, CPU, lambda data: data if is_mapped(data) else file.take(data))
    except OSError as error:
        why = error.strerror or str(error)
        report(Told(f"Weights of {spell_size(size)} stay in memory: {folder()} takes no file of them ({why})."), None)
        return program
    return replace(program, module=module, original=None)


def _size(module: fx.GraphModule) -> int:
    """Bytes that the storages of a graph would take in a file, without those that are in one."""
    found: dict[int, Tensor] = {tensor.untyped_storage()._cdata: tensor for tensor in stored(module)}
    return sum(padded(tensor.untyped_storage().nbytes()) for tensor in found.values() if not is_mapped(tensor))
