"""The state of a healing between two runs: plain values and tensors, written whole or not at all.

    {"format": "parallelize-heal/3", "identity": SHA-256, "step": ..., "pace": ..., "tensors": {"weights.0": ...}}

Tensors have the numbers of what is trained in the whole rewrite, so any number of processes goes on with what another
has kept; several keep them as `paraformer.training.resuming` does. The identity is that of the run (identity.py): the
teacher, plan, options and data. A run goes on from a file of its own identity only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from paraformer.checkpoint import read_plain
from paraformer.errors import CheckpointError
from paraformer.training.resuming import Kept, kept_in
from paraformer.training.shares import ALONE, Shares
from passes.errors import EnvironmentLackError, ParallelizeError

FORMAT = "parallelize-heal/3"


def read_state(path: Path, run: str) -> Kept | None:
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
    return kept_in(path, state)


def write_state(
    path: Path, run: str, plain: Mapping[str, Any], tensors: Mapping[str, Tensor], shares: Shares = ALONE
) -> None:
    """Write the state of the run.

    Raises:
        EnvironmentLackError: there is no room or no permission.
    """
    try:
        shares.keep(path, {"format": FORMAT, "identity": run, **plain}, tensors)
    except CheckpointError as error:
        raise EnvironmentLackError(str(error), error.hint) from error
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        if shares.data_ranks * shares.branch_ranks > 1 and isinstance(error, RuntimeError):
            raise
        raise EnvironmentLackError(
            f"The state of the healing cannot be written to {path}: {error}.", "Make room or choose another place."
        ) from error
