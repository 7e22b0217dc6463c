"""What a training begins with.

scratch      new weights, by a seed
continued    those of a checkpoint; a serial network becomes a Para-Former, or the other way round, where asked
extended     those of a checkpoint and new branches beside them; what is old stays as it is unless it is trained on
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from paraformer.checkpoint import Checkpoint
from paraformer.config import ParaFormerConfig
from paraformer.errors import CheckpointError
from paraformer.model import build
from paraformer.modes import Merge, Mode
from paraformer.network import ParaFormer
from paraformer.training.growing import grown
from paraformer.twins import from_serial, to_serial


@dataclass(frozen=True, eq=False)
class Start:
    """A model that is to be trained.

    Attributes:
        model: branches one by one.
        origin: where its weights are from, for people.
        kept: so many of its first branches, and the embedding, are not trained.
        words: the vocabulary that it knows, by token ids; empty where it knows none yet.
    """

    model: ParaFormer
    origin: str
    kept: int = 0
    words: Sequence[str] = field(default=())


def scratch(config: ParaFormerConfig, seed: int = 0) -> Start:
    """New weights."""
    torch.manual_seed(seed)
    return Start(build(config), "new weights")


def continued(
    checkpoint: Checkpoint,
    name: str,
    mode: Mode | None = None,
    branches: int | None = None,
    merge: Merge | None = None,
) -> Start:
    """The weights of a checkpoint.

    Args:
        checkpoint: the weights.
        name: of its file, for people.
        mode: of the model; None is that of the checkpoint, or a Para-Former where branches are asked for.
        branches: of a Para-Former; None is that of the checkpoint.
        merge: of the branches of a serial network that becomes a Para-Former.

    Raises:
        CheckpointError: weights that do not fit their config, or a Para-Former of another number of branches.
        ParaFormerError: blocks that cannot be shared out evenly.
    """
    model, words = checkpoint.build(), _words(checkpoint)
    if mode == "serial":
        return Start(to_serial(model), f"{name}, made serial", words=words)
    count = model.config.branch_count
    if count > 1 and branches not in (None, count):
        raise CheckpointError(
            f"{name} is a Para-Former of {count} branches, not {branches}.",
            f"Ask for --branches {count}, or name it with --grow to add branches.",
        )
    if count > 1 or (mode is None and branches is None):
        return Start(model, name, words=words)
    wanted = branches or 1
    return Start(
        from_serial(model, wanted, merge or "added"),
        f"{name}, made a Para-Former of {wanted} branches",
        words=words,
    )


def extended(checkpoint: Checkpoint, name: str, branches: int, *, train_old: bool = False, seed: int = 0) -> Start:
    """The weights of a checkpoint, and branches that change nothing at first.

    Raises:
        CheckpointError: weights that do not fit their config.
        TrainingError: it has as many branches already.
    """
    model = checkpoint.build()
    old = model.config.branch_count
    origin = f"{name}, grown from {old} to {branches} branches"
    return Start(grown(model, branches, seed), origin, 0 if train_old else old, _words(checkpoint))


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of the weights."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _words(checkpoint: Checkpoint) -> tuple[str, ...]:
    return tuple(checkpoint.training.get("words", ()))
