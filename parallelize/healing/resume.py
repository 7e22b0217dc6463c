"""The state of a healing between two runs: one file of plain values and tensors, written whole or not at all.

    {"format": "parallelize-heal/2", "identity": SHA-256, "step": ..., "weights": [...], "optimizer": {...}, ...}

The identity is that of the run (identity.py): the teacher, plan, options and data. A run goes on from a file of its own
identity only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paraformer.checkpoint import read_plain, write_atomically
from paraformer.errors import CheckpointError
from passes.errors import EnvironmentLackError, ParallelizeError

FORMAT = "parallelize-heal/2"


def read_state(path: Path, run: str) -> dict[str, Any] | None:
    """The state of the run, or None where there is no file.

    Raises:
        ParallelizeError: the file is damaged or of another run.
    """
    if not path.exists():
        return None
    try:
        state = read_plain(path, "Delete the file to start anew.")
    except CheckpointError as error:
        raise ParallelizeError(str(error), error.hint) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT or state.get("identity") != run:
        raise ParallelizeError(
            f"{path} is the state of a healing with another model, plan, data or options.",
            "Use the same ones to go on with that healing, or delete the file to start anew.",
        )
    return state


def write_state(path: Path, run: str, state: dict[str, Any]) -> None:
    """Write the state of the run.

    Raises:
        EnvironmentLackError: there is no room or no permission.
    """
    try:
        write_atomically(path, {"format": FORMAT, "identity": run, **state})
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        raise EnvironmentLackError(
            f"The state of the healing cannot be written to {path}: {error}.", "Make room or choose another place."
        ) from error
