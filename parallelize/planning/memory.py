"""What a search has measured, kept in a file, so that a search that was stopped goes on where it was.

    {"format": "parallelize-search/2", "identity": SHA-256, "groups": {name: error}, "ahead": {name: error},
     "networks": {plan: error}}

The identity is that of the model, the data and the options. The file is written whole or not at all. One that a user
named must be of this search; one that a command keeps on its own, beside its output, is begun anew where it is not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from parallelize.files.whole_file import output_file
from passes.errors import ParallelizeError

FORMAT = "parallelize-search/2"
SECONDS = 5.0  # between two writes
SEARCH_FILE = "search.resume"  # the end of the name of the file beside the output of a command


@dataclass
class Memory:
    """Measured errors by name.

    Attributes:
        groups: of groups of blocks that the search has asked for.
        ahead: of groups that it may ask for, where other ranks had measured them already.
        path: where they are kept; None keeps them nowhere.
        identity: of the search.
        networks: of whole networks, by the JSON of their plans.
    """

    groups: dict[str, float] = field(default_factory=dict)
    path: Path | None = None
    identity: str = ""
    networks: dict[str, float] = field(default_factory=dict)
    ahead: dict[str, float] = field(default_factory=dict)
    _written: float = 0.0

    def keep(self, *, now: bool = False) -> None:
        """Write the file where the last write is some seconds ago.

        Raises:
            EnvironmentLackError: there is no room or no permission.
        """
        if self.path is None or not (now or time.monotonic() - self._written > SECONDS):
            return
        content = {
            "format": FORMAT,
            "identity": self.identity,
            "groups": self.groups,
            "ahead": self.ahead,
            "networks": self.networks,
        }
        failed, hint = f"The search cannot be kept in {self.path}", "Make room or choose another place."
        with output_file(self.path, failed, hint) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")
        self._written = time.monotonic()


def open_memory(path: Path | None, identity: str) -> Memory:
    """The memory of a search, with what an earlier run of the same search left there.

    Raises:
        ParallelizeError: the file is damaged or of another search.
    """
    if path is None or not path.exists():
        return Memory(path=path, identity=identity)
    try:
        content = json.loads(path.read_text())
        groups, networks, ahead = (
            {str(name): float(value) for name, value in part.items()}
            for part in (content["groups"], content.get("networks", {}), content.get("ahead", {}))
        )
        same = content["format"] == FORMAT and content["identity"] == identity
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ParallelizeError(
            f"{path} is no record of a search: {error}.", "Delete the file to start anew."
        ) from error
    if not same:
        raise ParallelizeError(
            f"{path} is the record of a search with another model, other data or options.",
            "Use the same ones to go on with that search, or delete the file to start anew.",
        )
    return Memory(groups, path, identity, networks, ahead)


def resumed_memory(path: Path, identity: str, tell: Callable[[str], None]) -> Memory:
    """The memory of a search that nobody asked to keep: what an earlier run of the same search left, or none.

    Args:
        path: the file.
        identity: of the search.
        tell: told that the file is of no use, where it is damaged or of another search.
    """
    try:
        return open_memory(path, identity)
    except ParallelizeError as error:
        tell(f"{error} Nothing is taken from it.")
        return Memory(path=None if path.is_dir() else path, identity=identity)


def remove_memory(path: Path) -> None:
    """Delete the file of a search that nobody asked to keep, once what was searched for is there."""
    if path.is_file():
        path.unlink()
