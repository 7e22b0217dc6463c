"""Write a file whole or not at all: into a temporary one beside it, which takes its place at the end."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from passes.errors import EnvironmentLackError, ParallelizeError


def require_place(path: Path, failed: str) -> None:
    """Refuse before long work what `output_file` would refuse after it.

    Args:
        path: the file to make.
        failed: as for `output_file`.

    Raises:
        ParallelizeError: `path` is a directory.
        EnvironmentLackError: its folder is missing, or may not be written to.
    """
    if path.is_dir():
        raise ParallelizeError(f"{failed}: it is a directory.", "Name a file.")
    if not path.parent.is_dir():
        raise EnvironmentLackError(
            f"{failed}: there is no folder {path.parent}.", "Make the folder, or choose another."
        )
    if not os.access(path.parent, os.W_OK):
        raise EnvironmentLackError(f"{failed}: {os.strerror(errno.EACCES)}.", "Choose a place that you may write to.")


@contextmanager
def output_file(path: Path, failed: str, hint: str = "Choose a place that you may write to.") -> Iterator[Path]:
    """Yield a path to write to, which becomes `path` when the block ends without an error.

    Args:
        path: the file to make.
        failed: the beginning of the sentence that says what could not be written, up to the system's reason.
        hint: what to do then.

    Raises:
        EnvironmentLackError: the system refused; `path` is then as it was before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise EnvironmentLackError(f"{failed}: {error.strerror}.", hint) from error
    finally:
        with suppress(OSError):  # what it would tell has been told
            temporary.unlink(missing_ok=True)
