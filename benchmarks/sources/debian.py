"""Descriptions of Debian packages: the list Translation-en of the main section, as apt fetches and verifies it.

apt works in a folder of its own, so nothing of the system changes and no rights are needed. It asks for the release
that the system's sources name. Another release has other texts: they will do, but the numbers then differ a little from
the published ones.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.sources.source import Source, run
from passes.errors import EnvironmentLackError

LIST = "descriptions.txt"
_HINT = "It needs apt with a source of Debian's main section, and the network: check that `apt-get update` works here."
_CAT = "/usr/lib/apt/apt-helper"


@dataclass(frozen=True)
class DebianDescriptions(Source):
    """The list as plain text."""

    def download(self, scratch: Path) -> Path:
        """Let apt fetch its lists into a folder of their own; unpack the largest list of descriptions."""
        for folder in ("lists/partial", "cache/archives/partial"):
            (scratch / folder).mkdir(parents=True)
        places = (f"Dir::State::lists={scratch}/lists", f"Dir::Cache={scratch}/cache", "APT::Sandbox::User=root")
        options = [word for option in ("Acquire::Languages=en", *places) for word in ("-o", option)]
        run(("apt-get", "-q", *options, "update"), self.name, _HINT)
        wanted = ("Identifier: Translations", "Component: main", "Language: en")
        listed = run(("apt-get", *options, "indextargets", "--format", "$(FILENAME)", *wanted), self.name, _HINT)
        lists = [path for line in listed.decode().splitlines() if (path := Path(line)).is_file()]
        if not lists:
            raise EnvironmentLackError(f"{self.name!r} cannot be fetched: apt knows no list of descriptions.", _HINT)
        largest = max(lists, key=lambda path: path.stat().st_size)
        text = scratch / LIST
        text.write_bytes(run((_CAT, "cat-file", largest), self.name, _HINT))
        return text

    def unpack(self, file: Path, into: Path) -> None:
        """The list as it is."""
        shutil.move(file, into / LIST)

    def check(self, found: str) -> str:
        """Another list is no error: apt has verified it by its signature, and each release of Debian has its own."""
        if found == self.sha256:
            return ""
        return "The descriptions are of another Debian release than the published numbers, which will differ a little."
