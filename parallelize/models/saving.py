"""A program as an archive of torch.export.

The writer of PyTorch ends the process where a disk is full. So it is told that all went well, and what failed is raised
when it is done.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from parallelize.models.capture import export
from parallelize.models.program import Program

if TYPE_CHECKING:
    from typing import IO

    from typing_extensions import Buffer

BRANCHES = "branches.pt2"  # beside a fused model: the same network before its branches became wide operations


def save_program(program: Program, path: Path) -> None:
    """Write a .pt2, one weight after another.

    Raises:
        OSError: the disk is full, or the like.
    """
    exported = export(program)
    with path.open("wb", buffering=0) as raw, torch.no_grad():
        file = _Lasting(raw)
        torch.export.save(exported, cast("IO[bytes]", file))
    if file.failed is not None:
        raise file.failed


def archived(program: Program) -> bytes:
    """A program as the content of a .pt2."""
    file = io.BytesIO()
    with torch.no_grad():
        torch.export.save(export(program), file)
    return file.getvalue()


class _Lasting(io.RawIOBase):
    """Writes to a file until that fails, and then nothing more.

    Attributes:
        failed: why; None while all is well.
    """

    def __init__(self, raw: io.FileIO) -> None:
        self._raw = raw
        self.failed: OSError | None = None

    def writable(self) -> bool:
        """It is for nothing else."""
        return True

    def seekable(self) -> bool:
        """It is gone back to its beginning when it is done."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """As far as that goes."""
        return offset if whence == io.SEEK_SET else 0

    def write(self, data: Buffer, /) -> int:
        """Write all of it, or note why not."""
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left and self.failed is None:
                left = left[self._raw.write(left) :]
        except OSError as error:
            self.failed = error
        return size
