"""What a job holds between its stages: states, targets, normal equations. All of it shares one bounded part of memory.

A value lies, as long as somebody has what `Buffer.keep` returned for it,

    1. on its GPU, while all that is kept there is a small part of the memory that is free
    2. in the memory of the host, while that holds no more than HELD of the bound; what comes from a GPU is in pinned
       memory, copied while the GPU goes on
    3. in a temporary file

The rest of the bound is for what is there only while it is worked on: the values of one batch (AT_WORK of it in all)
and the blocks of a matrix. A value comes back as it was, so where values lie changes no number.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from parallelize.data.spill import Place, Spill
from parallelize.machine.device import CPU, has_room

BOUND = 2**31  # bytes of the host's memory
HELD = 0.5  # of the bound, for values in memory
AT_WORK = 1 / 64  # of the bound in elements, for the largest value of one batch: a sixteenth in bytes of float32


@dataclass(frozen=True, eq=False)
class _InMemory:
    tensor: Tensor
    device: torch.device

    def read(self) -> Tensor:
        return self.tensor if self.tensor.device == self.device else self.tensor.to(self.device, non_blocking=True)

    def write(self, value: Tensor) -> None:
        if value is not self.tensor:
            self.tensor.copy_(value)


@dataclass(frozen=True, eq=False)
class _InFile:
    spill: Spill
    place: Place
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    def read(self) -> Tensor:
        found = torch.empty(self.shape, dtype=self.dtype)
        self.spill.read(self.place, _bytes(found))
        return found.to(self.device)

    def write(self, value: Tensor) -> None:
        self.spill.rewrite(self.place, _bytes(value))


@dataclass(frozen=True, eq=False)
class Kept:
    """A value that is kept; its room is given back once nobody has this any more.

    Attributes:
        nbytes: of the value.
        device: that the value is wanted on.
    """

    nbytes: int
    device: torch.device
    _home: _InMemory | _InFile = field(repr=False)

    @property
    def value(self) -> Tensor:
        """The value as it was put in, on its device; not to be changed but by `put`."""
        return self._home.read()

    def put(self, value: Tensor) -> None:
        """Another value of this shape and dtype, such as `value` changed in place."""
        self._home.write(value)


class Buffer:
    """The memory of one job for what it holds.

    Attributes:
        bound: bytes of the host's memory.
    """

    def __init__(self, bound: int = BOUND) -> None:
        self.bound = bound
        self.held: dict[torch.device, int] = {}  # bytes in memory
        self._spill = Spill()

    @property
    def in_file(self) -> int:
        """Bytes in the temporary file."""
        return self._spill.size

    @property
    def elements(self) -> int:
        """How many elements the largest value of one batch may have."""
        return max(1, int(self.bound * AT_WORK))

    def keep(self, value: Tensor, share: float = 1.0) -> Kept:
        """Hold a value; one in memory is not copied and so is no longer the caller's to change.

        Args:
            value: what to hold.
            share: of the memory for what is held that may be full with it; less leaves room to what is read more often.

        Raises:
            EnvironmentLackError: there is no room for it anywhere.
        """
        device, size = value.device, value.nbytes
        if device.type != "cpu" and has_room(device, size, self.held.get(device, 0)):
            return self._in_memory(_own(value), device, size)
        taken = size if device.type == "cpu" else _pinned(size)
        if self.held.get(CPU, 0) + taken <= share * HELD * self.bound:
            return self._in_memory(_own(value) if device.type == "cpu" else _to_host(value), device, taken)
        place = self._spill.write(_bytes(value))
        kept = Kept(size, device, _InFile(self._spill, place, value.shape, value.dtype, device))
        weakref.finalize(kept, self._spill.free, place).atexit = False
        return kept

    def _in_memory(self, own: Tensor, device: torch.device, taken: int) -> Kept:
        """Kept where `own` is, for `device`."""
        home = own.device
        kept = Kept(own.nbytes, device, _InMemory(own, device))
        self._count(home, taken)
        weakref.finalize(kept, partial(self._count, home, -taken)).atexit = False
        return kept

    def _count(self, home: torch.device, taken: int) -> None:
        self.held[home] = self.held.get(home, 0) + taken


def _own(value: Tensor) -> Tensor:
    """The value, or a copy of it where it is a small part of something larger, which would be held with it."""
    return value if value.untyped_storage().nbytes() < 2 * value.nbytes else value.clone()


def _to_host(value: Tensor) -> Tensor:
    """A copy that is read only by copies back on the same stream, so nothing waits for it."""
    host = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.device.type == "cuda")
    return host.copy_(value, non_blocking=True)


def _pinned(size: int) -> int:
    """What torch takes of pinned memory for so many bytes: a power of two."""
    return 1 << max(0, size - 1).bit_length()


def _bytes(value: Tensor) -> memoryview:
    """The memory of a tensor on the host, of a copy where it is no single piece there."""
    return value.to(CPU).contiguous().reshape(-1).view(torch.uint8).numpy().data
