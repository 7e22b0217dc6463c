"""What takes long to make of the sources is made once and kept in the cache.

The name of its folder holds a hash of the sources and of the code that it is made with, so it is never stale.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.sources import CACHE, fingerprint
from benchmarks.sources.source import replace_folder


def prepared(
    name: str, sources: Sequence[str], code: Sequence[Path], write: Callable[[Path], None], cache: Path = CACHE
) -> Path:
    """A folder of the cache, made when it is asked for the first time, whole or not at all.

    Args:
        name: begins the name of the folder.
        sources: names of the fetched sources that it is made from.
        code: Python files that it changes with.
        write: fills an empty folder.
        cache: where it is kept.

    Raises:
        EnvironmentLackError: a source was not fetched.
    """
    parts = (*(fingerprint(source, cache).encode() for source in sources), *(path.read_bytes() for path in code))
    digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
    place = cache / "prepared" / f"{name}-{digest[:12]}"
    if place.is_dir():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{name}-") as scratch:
        unfinished = Path(scratch) / "unfinished"
        unfinished.mkdir()
        write(unfinished)
        replace_folder(unfinished, place)
    return place
