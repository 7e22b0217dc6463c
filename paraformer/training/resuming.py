"""The state of an unfinished run beside its checkpoint: what it is, and all that the next step depends on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paraformer.checkpoint import read_plain, write_atomically
from paraformer.errors import CheckpointError


def resume_file(output: Path) -> Path:
    """Where the state of the run that writes `output` is kept."""
    return output.with_name(output.name + ".resume")


def keep_state(path: Path, identity: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write the state of a run; an older one stays whole until the new one is."""
    write_atomically(path, {"identity": dict(identity), "state": dict(state)})


def kept_state(path: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state of this run, None where there is none.

    Raises:
        CheckpointError: the file is damaged, or of another run.
    """
    if not path.exists():
        return None
    kept = read_plain(path, "Delete the file to start anew.")
    whose = kept.get("identity") if isinstance(kept, dict) else None
    if isinstance(whose, dict) and whose == identity and isinstance(kept, dict):
        return dict(kept["state"])
    differing = "" if not isinstance(whose, dict) else f": {_differing(whose, identity)}"
    raise CheckpointError(
        f"{path} belongs to a run with other options{differing}.",
        "Use the same options to go on with that run, or delete the file to start anew.",
    )


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    names = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    return ", ".join(name.replace("_", " ") for name in names)
