"""A **source**: something of others that is fetched once, checked, and appears in the cache whole or not at all.

It is written to a temporary folder beside its place, which is renamed when all is there. The folder ends up with a
record of what it holds: `source.json`, whose presence says that the source is complete.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from passes.errors import EnvironmentLackError, ParallelizeError

RECORD = "source.json"


@dataclass(frozen=True)
class Source(ABC):
    """Where something comes from.

    Attributes:
        name: of its folder in the cache.
        what: one line for people.
        licence: under which others may use it.
        megabytes: about how much is downloaded.
        sha256: of the file that is downloaded.
    """

    name: str
    what: str
    licence: str
    megabytes: int
    sha256: str

    @abstractmethod
    def download(self, scratch: Path) -> Path:
        """Put the file that the source consists of into an empty folder; return its path."""

    @abstractmethod
    def unpack(self, file: Path, into: Path) -> None:
        """Write what is needed of a checked file into a folder."""

    def check(self, found: str) -> str:
        """What to tell about a file with this SHA-256; nothing where it is the expected one.

        Raises:
            ParallelizeError: the file cannot be used.
        """
        if found == self.sha256:
            return ""
        raise ParallelizeError(
            f"What was fetched for {self.name!r} has the SHA-256 {found}, not {self.sha256}.",
            "Fetch it again from an index that you trust; the file was thrown away.",
        )

    def is_fetched(self, cache: Path) -> bool:
        """Whether the cache holds it, whole."""
        return (cache / self.name / RECORD).is_file()

    def fetch(self, cache: Path) -> str:
        """Fetch, check and unpack; what to tell the user about it, or nothing.

        Raises:
            EnvironmentLackError: a program or the network is missing.
            ParallelizeError: what came is not what was expected.
        """
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=f".{self.name}-") as scratch:
            arriving, unpacked = Path(scratch) / "arriving", Path(scratch) / "unpacked"
            arriving.mkdir()
            unpacked.mkdir()
            file = self.download(arriving)
            found = sha256(file)
            note = self.check(found)
            self.unpack(file, unpacked)
            record = {**asdict(self), "sha256": found}
            (unpacked / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            replace_folder(unpacked, cache / self.name)
        return note


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def replace_folder(new: Path, place: Path) -> None:
    """Move a complete folder to its place on the same file system; what an interrupted run left there goes."""
    if place.exists():
        shutil.rmtree(place)
    new.rename(place)


def run(command: Sequence[str | Path], name: str, hint: str) -> bytes:
    """Run a program; what it printed.

    Raises:
        EnvironmentLackError: it is not installed, or failed.
    """
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, check=False)
    except FileNotFoundError:
        raise EnvironmentLackError(f"{name!r} cannot be fetched: {command[0]} is not installed.", hint) from None
    if done.returncode == 0:
        return done.stdout
    said = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    why = said[-1].removeprefix("ERROR: ").rstrip(".") if said else f"exit code {done.returncode}"
    raise EnvironmentLackError(f"{name!r} cannot be fetched: {why}.", hint)
