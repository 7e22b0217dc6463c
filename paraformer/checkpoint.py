"""Checkpoints: plain dictionaries that `torch.load(weights_only=True)` reads, so a file cannot run code.

{"format": "paraformer-checkpoint/2", "kind": "vision", "config": {...}, "state_dict": {...},
 "input_shape": [channels, height, width], "training": {...}}

The state dict is that of branches one by one, however they ran in training. Files of version 1 knew images only; what
their branches add is summed up, their tokens are averaged.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from paraformer.errors import CheckpointError
from paraformer.model import KINDS, ParaFormer, ParaFormerConfig, build, kind_of

FORMAT = "paraformer-checkpoint/2"
_FIRST = "paraformer-checkpoint/1"


@dataclass(frozen=True)
class Checkpoint:
    """A trained model as data: sizes, weights and how it was trained."""

    config: ParaFormerConfig
    state_dict: dict[str, Tensor]
    training: dict[str, Any] = field(default_factory=dict)

    def build(self) -> ParaFormer:
        """Build the model with these weights, in eval mode.

        Raises:
            CheckpointError: the weights do not fit the sizes.
        """
        model = build(self.config)
        try:
            model.load_state_dict(self.state_dict)
        except RuntimeError as error:
            first = str(error).splitlines()[-1].strip()
            raise CheckpointError(
                f"The checkpoint's weights do not fit its own config: {first}",
                "The file was edited or mixed up; train it again with `parallelize train`.",
            ) from error
        return model.eval()


def write_atomically(path: Path, value: object) -> None:
    """`torch.save` to a temporary file beside `path`, then rename: a killed run leaves the old file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        torch.save(value, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; an older file of that name stays whole until the new one is."""
    write_atomically(
        path,
        {
            "format": FORMAT,
            "kind": kind_of(checkpoint.config),
            "config": checkpoint.config.to_dict(),
            "state_dict": dict(checkpoint.state_dict),
            "input_shape": list(checkpoint.config.input_shape),
            "training": checkpoint.training,
        },
    )


def is_checkpoint(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether a loaded object carries this package's format tag, of any version."""
    return isinstance(value, dict) and str(value.get("format", "")).startswith("paraformer-checkpoint/")


def from_dict(value: dict[str, Any], origin: str) -> Checkpoint:
    """Read a checkpoint out of its dictionary.

    Raises:
        CheckpointError: another format version, a missing part, or sizes that make no sense.
    """
    if value.get("format") not in (_FIRST, FORMAT):
        raise CheckpointError(
            f"{origin} has the format {value.get('format')!r}, this version reads {_FIRST!r} and {FORMAT!r}.",
            "Use the version of this tool that wrote it, or train it again.",
        )
    try:
        return Checkpoint(_config(value), _tensors(value["state_dict"]), value.get("training", {}))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{origin} is not a whole checkpoint: {error}.", "Train it again with `parallelize train`."
        ) from error


def _config(value: dict[str, Any]) -> ParaFormerConfig:
    """The sizes in a checkpoint; a field that this version does not know would change what the model computes."""
    kind = "vision" if value["format"] == _FIRST else value["kind"]
    if kind not in KINDS:
        raise ValueError(f"the kind {kind!r} is none of {', '.join(map(repr, KINDS))}")
    unknown = value["config"].keys() - {field.name for field in fields(KINDS[kind].config)}
    if unknown:
        raise ValueError(f"its config has the unknown field {min(unknown)!r}")
    return KINDS[kind].config(**value["config"])


def _tensors(value: object) -> dict[str, Tensor]:
    if not isinstance(value, dict) or not all(isinstance(tensor, Tensor) for tensor in value.values()):
        raise TypeError("'state_dict' is no dictionary of tensors")
    return value


def read_plain(path: Path, hint: str) -> object:
    """Read a file of plain values and tensors without running any code that may be in it.

    Raises:
        CheckpointError: the file is absent, damaged, or holds pickled objects.
    """
    try:
        value: object = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist.", "Check the path.") from None
    except Exception as error:  # the unpickler raises whatever the bytes of a damaged file make of it
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: it is damaged or holds pickled objects.", hint
        ) from error
    return value


def load(path: Path) -> Checkpoint:
    """Read a checkpoint file without running any code that may be in it.

    Raises:
        CheckpointError: the file is absent, damaged, pickled objects, or something else.
    """
    value = read_plain(path, "Copy it again, or train it again with `parallelize train`.")
    if not is_checkpoint(value):
        raise CheckpointError(f"{path} is not a Para-Former checkpoint.", f"It must carry the format tag {FORMAT!r}.")
    return from_dict(value, str(path))
