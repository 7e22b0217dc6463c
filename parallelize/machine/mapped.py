"""Tensors in a file that is mapped into memory: they can be dropped at any time, and are read again when they are used.

The file has no name, so nothing is left of it however the process ends. It is written, not filled through its mapping,
so what is written is no memory of this process. The mapping is shared with the file: what is changed in place stays.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import tempfile
import weakref

import torch
from torch import Tensor

_ALIGNED = 64  # bytes; what a vector instruction may want
_AT_ONCE = 1 << 24  # bytes that are written at a time


class _Memory(mmap.mmap):
    """The mapping of one file, which goes with the last tensor in it."""


class MappedFile:
    """A file of a given size that takes in one tensor after another while it is open; then they stay."""

    def __init__(self, size: int, folder: str) -> None:
        """Make the file.

        Raises:
            OSError: the folder cannot be written to.
        """
        self._file = tempfile.TemporaryFile(prefix="parallelize-", dir=folder, buffering=0)  # noqa: SIM115  (as long as it takes tensors in)
        self._file.truncate(max(size, 1))
        self._memory = _Memory(self._file.fileno(), 0)
        self.start = torch.frombuffer(self._memory, dtype=torch.uint8).data_ptr()
        _FILES[self._memory] = self.start, len(self._memory)

    def close(self) -> None:
        """Take no more in; what is there stays as long as it is used."""
        self._file.close()

    def take(self, data: Tensor) -> Tensor:
        """Write bytes to the file, and give them back where they are mapped.

        Args:
            data: one-dimensional, uint8, on the host.

        Raises:
            OSError: the disk is full.
        """
        if not len(data):
            return data
        begin = self._file.tell()
        left = data.numpy().data
        while left:
            left = left[self._file.write(left[:_AT_ONCE]) :]
        self._file.seek(padded(self._file.tell()))
        return torch.frombuffer(self._memory, dtype=torch.uint8, count=len(data), offset=begin)


_FILES: weakref.WeakKeyDictionary[_Memory, tuple[int, int]] = weakref.WeakKeyDictionary()  # address and size


def padded(size: int) -> int:
    """What so many bytes take in a file."""
    return size + -size % _ALIGNED


def is_mapped(tensor: Tensor) -> bool:
    """Whether a tensor lies in such a file."""
    place = tensor.data_ptr()
    return any(start <= place < start + size for start, size in _FILES.values())


def let_go() -> None:
    """Drop from memory what can be read again from files that are mapped, and what is free; nothing without such files.

    Free memory between blocks that are in use otherwise stays with the process.
    """
    if not _FILES:
        return
    gc.collect()  # modules in circles
    for memory in list(_FILES):
        memory.madvise(mmap.MADV_DONTNEED)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of the GNU C library
    if trim is not None:
        trim(0)
