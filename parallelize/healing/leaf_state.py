"""What a process keeps of the leaves that it trains, by their numbers in the whole rewrite.

weights.3    best.3    exp_avg.3    exp_avg_sq.3    step.3
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from paraformer.errors import CheckpointError
from paraformer.training.resuming import Kept
from passes.errors import ParallelizeError


def tensors_of(
    leaves: Sequence[nn.Parameter], names: Sequence[str], best: Sequence[Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """All tensors, by their names."""
    found: dict[str, Tensor] = {}
    for leaf, name, kept in zip(leaves, names, best, strict=True):
        found |= {f"weights.{name}": leaf.detach(), f"best.{name}": kept}
        found |= {f"{slot}.{name}": value for slot, value in optimizer.state.get(leaf, {}).items()}
    return found


def load(
    kept: Kept, leaves: Sequence[nn.Parameter], names: Sequence[str], optimizer: torch.optim.Optimizer
) -> list[Tensor]:
    """Put back what `tensors_of` gave, on any number of processes; returns the best weights.

    Raises:
        ParallelizeError: a tensor is missing or damaged.
    """
    own = set(names)
    try:
        read = kept.read([name for name in kept.names() if name.rpartition(".")[2] in own])
    except CheckpointError as error:
        raise ParallelizeError(str(error), error.hint) from error
    with torch.no_grad():
        for leaf, name in zip(leaves, names, strict=True):
            leaf.copy_(read[f"weights.{name}"])
    slots = {name.rpartition(".")[0] for name in read} - {"weights", "best"}
    name_of = dict(zip(leaves, names, strict=True))
    trained = [name_of[leaf] for group in optimizer.param_groups for leaf in group["params"]]
    states = {
        place: {slot: read[f"{slot}.{name}"] for slot in slots if f"{slot}.{name}" in read}
        for place, name in enumerate(trained)
    }
    known = {place: state for place, state in states.items() if state}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": known})
    return [read[f"best.{name}"].to(leaf.device) for leaf, name in zip(leaves, names, strict=True)]
