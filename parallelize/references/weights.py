"""`--weights`: a state dict from a `.pt` or a `.safetensors`, loaded into a module that it fits exactly."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from parallelize.inputs import readable
from passes.errors import EnvironmentLackError, ParallelizeError

UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile)


def load_weights(module: nn.Module, path: Path, reference: str) -> None:
    """Load a state dict that fits exactly, or name the first key that does not fit."""
    state = _read_state(readable(path))
    expected = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    problems = [f"{key!r} is missing" for key in expected if key not in state]
    problems += [f"{key!r} is not in the model" for key in state if key not in expected]
    problems += [
        f"{key!r} has the shape {_sized(state[key].shape)}, the model's {_sized(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if problems:
        more = f", and {len(problems) - 1} more keys do not fit" if len(problems) > 1 else ""
        raise ParallelizeError(
            f"{path} does not fit {reference}: {problems[0]}{more}.", "Give the weights of this very model."
        )
    module.load_state_dict(state, strict=False)  # extra state that is no tensor stays as it is


def _read_state(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if is_script(path):
        raise ParallelizeError(
            f"{path} is a TorchScript archive.", "Save the weights with torch.save(model.state_dict(), FILE)."
        )
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        what = "holds more than tensors" if is_pickle(path, error) else "is damaged or not a PyTorch file"
        raise ParallelizeError(
            f"{path} {what}.", "Save the weights with torch.save(model.state_dict(), FILE)."
        ) from error
    state = state_in(value)
    if state is None:
        raise ParallelizeError(
            f"{path} holds no state dict.", "Save the weights with torch.save(model.state_dict(), FILE)."
        )
    return state


def state_in(value: Any) -> dict[str, Tensor] | None:
    """A state dict, bare or as the "state_dict" of a training checkpoint."""
    state = value.get("state_dict", value) if isinstance(value, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(part, Tensor) for part in state.values()):
        return None
    return {str(name): part for name, part in state.items()}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise EnvironmentLackError(
            f"{path} cannot be read: safetensors is not installed.", "Install it with `pip install safetensors`."
        ) from error
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise ParallelizeError(f"{path} is damaged or not a safetensors file.", "Copy it again.") from error


def _sized(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "of a single number"


def is_script(path: Path) -> bool:
    """Whether a file is a TorchScript archive, which torch.load would warn of before it refuses it."""
    return "constants.pkl" in _entries(path)


def is_pickle(path: Path, error: Exception) -> bool:
    """Whether a file that did not load as tensors is whole and holds other objects."""
    entries = _entries(path)
    if entries:
        return isinstance(error, pickle.UnpicklingError) and "data.pkl" in entries
    return isinstance(error, pickle.UnpicklingError) and "unsupported global" in str(error).lower()


def _entries(path: Path) -> set[str]:
    """Names in a ZIP file, none of a file of another kind."""
    if not zipfile.is_zipfile(path):
        return set()
    with zipfile.ZipFile(path) as archive:
        return {Path(name).name for name in archive.namelist()}
