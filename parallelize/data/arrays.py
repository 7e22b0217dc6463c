"""Arrays of .npz and .npy files: read whole, or only what their headers say. Those in memory are there as they are.

Data may be as large as memory allows once, so whoever needs shapes and dtypes alone reads headers.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from parallelize.data.held import UNNAMED, Array, HeldArrays, held
from passes.errors import ParallelizeError

Stored = Path | HeldArrays  # where data is: in a file, or in memory
SAVE_HINT = "Save the data with numpy.savez(FILE, NAME=array), one array for each input, first axis samples."


def readable(path: Path) -> Path:
    """The path of a file that can be opened.

    Raises:
        ParallelizeError: it does not exist, is a directory, or may not be read.
    """
    try:
        path.open("rb").close()
    except FileNotFoundError:
        raise ParallelizeError(f"{path} does not exist.", "Check the path.") from None
    except IsADirectoryError:
        raise ParallelizeError(f"{path} is a directory.", "Name a file.") from None
    except OSError as error:
        raise ParallelizeError(f"{path} cannot be read: {error.strerror}.", "Check who may read the file.") from error
    return path


def stored(data: Any) -> Stored:
    """Where the data is that a user names by its path, or holds; as `parallelize.data.held` reads it.

    Raises:
        ParallelizeError: it is no data.
    """
    return Path(data) if isinstance(data, str | os.PathLike) else held(data)


def read_arrays(path: Stored, names: Iterable[str] | None = None) -> dict[str, Array]:
    """Read arrays of an .npz by their names, or the array of an .npy under the name UNNAMED.

    Args:
        path: the file, or what is in memory already.
        names: the arrays to read, where the file has them; None reads all.

    Raises:
        ParallelizeError: the file is absent, damaged, of another kind, or holds Python objects.
    """
    if isinstance(path, HeldArrays):
        return dict(path.arrays)
    wanted = None if names is None else set(names)
    with _refusing(path):
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {UNNAMED: loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files if wanted is None or name in wanted}


def read_headers(path: Stored) -> dict[str, Array]:
    """Stand-ins for the arrays of a file, of their shapes and dtypes, that take no memory; every value is 0.

    Raises:
        ParallelizeError: as `read_arrays`.
    """
    if isinstance(path, HeldArrays):
        return dict(path.arrays)
    with _refusing(path):
        if path.suffix == ".npy":
            with path.open("rb") as file:
                return {UNNAMED: _stand_in(file)}
        with zipfile.ZipFile(path) as archive:
            found = {}
            for member in archive.namelist():
                with archive.open(member) as file:
                    found[member.removesuffix(".npy")] = _stand_in(file)
            return found


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """A sentence for a file that NumPy does not read."""
    if path.suffix not in (".npz", ".npy"):
        raise ParallelizeError(f"{path} is neither .npz nor .npy.", SAVE_HINT)
    readable(path)
    try:
        yield
    except RuntimeError as error:  # in the words of zipfile: encrypted, or compressed in a way that it does not know
        raise ParallelizeError(f"{path} cannot be read: {error}.", SAVE_HINT) from error
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        what = "holds Python objects, which are not read" if "allow_pickle" in str(error) else "is damaged"
        raise ParallelizeError(f"{path} {what}.", SAVE_HINT) from error


def _stand_in(file: IO[bytes]) -> Array:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("allow_pickle: the array holds objects")
    return np.broadcast_to(np.zeros((), dtype), shape)


def listed(names: Iterable[str]) -> str:
    """Names of arrays in a sentence."""
    return ", ".join(repr(name) if name else "an array without a name" for name in names) or "nothing"
