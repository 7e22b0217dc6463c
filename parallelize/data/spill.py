"""Bytes in a temporary file that has no name, so that nothing is left of it however the process ends.

The file is written and read and never mapped, so what it holds is no part of this process' memory. Places that are
given back are taken again, the first that is large enough, and a file of which nothing is wanted any more is emptied.
It lies in the folder that TMPDIR names, else in /var/tmp, which unlike /tmp is a disk on most machines.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from passes.errors import EnvironmentLackError

_NAMED = ("TMPDIR", "TEMP", "TMP")
_LASTING = Path("/var/tmp")  # noqa: S108  (only the folder: the file is made by tempfile)


@dataclass(frozen=True)
class Place:
    """Where bytes lie in the file."""

    start: int
    size: int

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.start + self.size


class Spill:
    """A temporary file; it is made when something is first written."""

    def __init__(self) -> None:
        self._file: FileIO | None = None
        self._free: list[Place] = []  # in their order, no two beside each other, before `_end`
        self._end = 0

    @property
    def size(self) -> int:
        """Bytes that are taken."""
        return self._end - sum(place.size for place in self._free)

    def write(self, data: memoryview) -> Place:
        """Write bytes somewhere.

        Raises:
            EnvironmentLackError: the disk is full, or no folder can be written to.
        """
        place = self._taken(data.nbytes)
        try:
            self.rewrite(place, data)
        except BaseException:
            self.free(place)
            raise
        return place

    def rewrite(self, place: Place, data: memoryview) -> None:
        """Write other bytes in a place, as many.

        Raises:
            EnvironmentLackError: as above.
        """
        try:
            file = self._opened()
            file.seek(place.start)
            left = data
            while left:
                left = left[file.write(left) :]
        except OSError as error:
            raise EnvironmentLackError(
                f"What is held between levels cannot be written to {folder()}: {error.strerror or error}.",
                "Make room there, name another folder with TMPDIR, or hold more in memory with --buffer.",
            ) from error

    def read(self, place: Place, into: memoryview) -> None:
        """Read the bytes of a place.

        Raises:
            EnvironmentLackError: the file has lost them.
        """
        file = self._opened()
        file.seek(place.start)
        left = into
        while count := file.readinto(left):
            left = left[count:]
        if left:
            raise EnvironmentLackError(
                f"What is held between levels was lost in {folder()}.",
                "Name another folder with TMPDIR, or hold more in memory with --buffer.",
            )

    def free(self, place: Place) -> None:
        """Give a place back."""
        free = sorted((one for one in (*self._free, place) if one.size), key=lambda one: one.start)
        self._free = []
        for one in free:
            joins = self._free and self._free[-1].end == one.start
            start = self._free.pop().start if joins else one.start
            self._free.append(Place(start, one.end - start))
        if self._free and self._free[-1].end == self._end:
            self._end = self._free.pop().start
        if not self._end and self._file is not None:
            self._file.truncate(0)

    def _opened(self) -> FileIO:
        if self._file is None:
            self._file = tempfile.TemporaryFile(  # noqa: SIM115  (open as long as the job is)
                prefix="parallelize-", dir=folder(), buffering=0
            )
        return self._file

    def _taken(self, size: int) -> Place:
        for number, place in enumerate(self._free):
            if place.size >= size:
                self._free[number : number + 1] = [Place(place.start + size, place.size - size)][: place.size > size]
                return Place(place.start, size)
        self._end += size
        return Place(self._end - size, size)


def folder() -> str:
    """Where temporary files of any size go."""
    named = any(os.environ.get(name) for name in _NAMED)
    lasting = not named and _LASTING.is_dir() and os.access(_LASTING, os.W_OK)
    return str(_LASTING) if lasting else tempfile.gettempdir()
