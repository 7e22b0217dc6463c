"""Write a directory whole or not at all.

Everything is written into a temporary directory beside the wanted one, which takes its place in one step at the end. A
run that fails or is killed, at any moment, leaves an earlier directory as it was.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from passes.errors import EnvironmentLackError, ParallelizeError

_AT_FDCWD = -100
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)


@contextmanager
def output_directory(path: Path, *, force: bool) -> Iterator[Path]:
    """Yield a temporary directory that becomes `path` when the block ends without an error.

    Args:
        path: the directory to make.
        force: replace an existing one.

    Raises:
        ParallelizeError: `path` exists and `force` is false, or is a file.
        EnvironmentLackError: the place cannot be written to.
    """
    path = path.resolve()
    if path.is_file():
        raise ParallelizeError(f"{path} is a file.", "Name a directory with -o.")
    if path.exists() and not force:
        raise ParallelizeError(
            f"The output directory {path} exists.", "Choose another with -o, or add --force to replace it."
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        temporary.mkdir()
    except OSError as error:
        raise EnvironmentLackError(
            f"The output directory {path} cannot be made: {error.strerror}.", "Choose a place that you may write to."
        ) from error
    try:
        yield temporary
        _put_in_place(temporary, path)
    except OSError as error:
        raise EnvironmentLackError(
            f"Writing the output failed: {error.strerror or error}.", "Make room or choose another place with -o."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def beside(path: Path, ending: str) -> Path:
    """The file beside a directory that keeps the state of the run which makes it, named after it.

    Args:
        path: the directory.
        ending: of the file's name, such as "resume".
    """
    path = path.resolve()
    return path.with_name(f"{path.name}.{ending}")


def refuse_foreign(path: Path, mark: str, maker: str) -> None:
    """Only what an earlier run of the same command made may be replaced, whatever the options say.

    Args:
        path: the wanted directory.
        mark: a file that such a run leaves in it.
        maker: the command, such as "a conversion".

    Raises:
        ParallelizeError: a directory with files in it, but without that one.
        EnvironmentLackError: the directory cannot be read.
    """
    try:
        foreign = path.is_dir() and any(path.iterdir()) and not (path / mark).is_file()
    except OSError as error:
        raise EnvironmentLackError(
            f"The output directory {path} cannot be read: {error.strerror}.", "Choose a place that you may write to."
        ) from error
    if foreign:
        raise ParallelizeError(
            f"The directory {path} exists and was not made by {maker}: it has no {mark}.",
            "Choose another with -o, or delete it yourself.",
        )


def _remove_leftovers(path: Path) -> None:
    """Delete temporary directories of runs that no longer exist, also of one that had this process's number."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        owner = leftover.name.split(".")[-2]
        if owner.isdigit() and (int(owner) == os.getpid() or not _is_running(int(owner))):
            shutil.rmtree(leftover, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _put_in_place(temporary: Path, path: Path) -> None:
    """Rename, or exchange with the directory that is there, so that `path` is whole at every moment."""
    if not path.exists():
        temporary.rename(path)
        return
    if _exchange(temporary, path):
        return  # the old directory now has the temporary name and is deleted by the caller
    old = path.with_name(f".{path.name}.{os.getpid()}.old.tmp")
    path.rename(old)
    temporary.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two directories in one step where the system can (Linux)."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _EXCHANGE) == 0)
