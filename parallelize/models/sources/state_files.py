"""Files of weights, as training loops and libraries write them: what they hold, mappings with tensors in them.

    FILE.pt, .pth, .ckpt, .bin    torch.save: tensors and plain values, in mappings as deep as they like
    FILE.safetensors              tensors by name
    FILE.index.json               the names of shards of either kind that lie beside it
    DIR                           the first of these under the names that save_pretrained gives them

Nothing but tensors and plain values is unpickled unless the user allows it. Plain are, besides what PyTorch counts as
such, what training loops put beside their weights: parsed arguments, numbers of NumPy and paths.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import pickle
import re
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from parallelize.data import readable
from parallelize.models.sources.user_code import described
from passes.errors import EnvironmentLackError, ParallelizeError

SAVED = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
)
_INDEX = ".index.json"
_SAVE_HINT = "Save the weights with torch.save(model.state_dict(), FILE)."
_COPY_HINT = "Copy it again."
_SHARD = re.compile(r"(?P<stem>.+)-\d+-of-\d+(?P<suffix>\.\w+)")
_UNSUPPORTED = re.compile(
    r"(?:nsupported global: |unsupported )(?:GLOBAL )?`?([\w.]+)"
)  # in the words of the unpickler
_OF_A_SCRIPT = re.compile(r"Can't get attribute '(\w+)' on <module '[\w.]*__main__'")  # in the words of pickle
_ARRAY, _NUMBER = (
    np.zeros(0).__reduce__()[0],
    np.float64(0).__reduce__()[0],
)  # which make them again
_PLAIN: list[Any] = [
    argparse.Namespace,
    types.SimpleNamespace,
    pathlib.Path,
    pathlib.PosixPath,
    pathlib.PurePosixPath,
    np.dtype,
    np.ndarray,
    *((_ARRAY, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((_NUMBER, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"},
]


def read_weights(path: Path, *, allow_pickle: bool) -> Any:
    """What a file, the shards of an index or a directory hold.

    Raises:
        EnvironmentLackError: safetensors is needed and not installed.
        ParallelizeError: there is none that can be read.
    """
    if path.is_dir():
        return read_weights(_in_directory(path), allow_pickle=allow_pickle)
    readable(path)
    if path.name.endswith(_INDEX):
        return _read_shards(path, allow_pickle=allow_pickle)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return read_torch(path, allow_pickle=allow_pickle, what="holds more than tensors", hint=_SAVE_HINT)


def read_torch(path: Path, *, allow_pickle: bool, what: str, hint: str) -> Any:
    """What a file of torch.save holds.

    Args:
        path: the file.
        allow_pickle: run the code that the file names, where it holds more than tensors and plain values.
        what: what is wrong with a file of objects where that is not allowed.
        hint: what to do about it.

    Raises:
        ParallelizeError: the file is damaged, of another kind, or holds objects.
    """
    if _is_script(path):
        raise ParallelizeError(
            f"{path} is a TorchScript archive.", "Export the model with torch.export and torch.export.save."
        )
    try:
        with torch.serialization.safe_globals(_PLAIN):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no pickle are read as orders of any kind
        if not _is_pickle(path, error):
            raise ParallelizeError(
                f"{path} is damaged or not a PyTorch file.", "Copy it again, or make it again."
            ) from error
        if not allow_pickle:
            raise ParallelizeError(f"{path} {what}{_named_class(error)}.", hint) from error
    return _unpickled(path)


def shard_hint(path: Path) -> str | None:
    """What to name instead of one shard of several."""
    found = _SHARD.fullmatch(path.name)
    return (
        None if found is None else f"It is one of several files: name {found['stem']}{found['suffix']}{_INDEX} instead."
    )


def is_state_dict(value: Any) -> bool:
    """Whether tensors are all that is in a mapping, or in one inside it."""
    if not isinstance(value, dict) or not value:
        return False
    return all(isinstance(part, Tensor) for part in value.values()) or any(map(is_state_dict, value.values()))


def modules_in(value: Any, depth: int = 4) -> dict[str, nn.Module]:
    """Modules in mappings, by the keys that lead to them."""
    if isinstance(value, nn.Module):
        return {"": value}
    if not isinstance(value, dict) or not depth:
        return {}
    inner = {str(key): modules_in(part, depth - 1) for key, part in value.items()}
    return {f"{key}.{name}".rstrip("."): module for key, held in inner.items() for name, module in held.items()}


def _in_directory(directory: Path) -> Path:
    found = next((directory / name for name in SAVED if (directory / name).is_file()), None)
    if found is not None:
        return found
    if (directory / ".metadata").is_file():
        raise ParallelizeError(
            f"{directory} is a distributed checkpoint.",
            "Make one file of it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch DIR FILE.pt.",
        )
    raise ParallelizeError(f"{directory} has no weights: it has none of {', '.join(SAVED[:4])}.", "Name a file.")


def _read_shards(index: Path, *, allow_pickle: bool) -> dict[str, Any]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ParallelizeError(f"{index} is damaged or no index of weights.", _COPY_HINT) from error
    held: dict[str, Any] = {}
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or name.endswith(_INDEX):
            raise ParallelizeError(f"{index} names {name!r}, which is no file of weights beside it.", _COPY_HINT)
        if not index.with_name(name).is_file():
            raise ParallelizeError(f"{index} names {name}, which is missing.", f"Put {name} beside it.")
        shard = read_weights(index.with_name(name), allow_pickle=allow_pickle)
        if not isinstance(shard, dict):
            raise ParallelizeError(f"{index.with_name(name)} holds no tensors by name.", _COPY_HINT)
        held |= shard
    return held


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
        raise ParallelizeError(f"{path} is damaged or not a safetensors file.", _COPY_HINT) from error


def _is_script(path: Path) -> bool:
    """Whether a file is a TorchScript archive, which torch.load would warn of before it refuses it."""
    return "constants.pkl" in _entries(path)


def _is_pickle(path: Path, error: Exception) -> bool:
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


def _named_class(error: Exception) -> str:
    """The class that the unpickler stopped at, where it says so."""
    found = _UNSUPPORTED.search(str(error))
    return "" if found is None else f": {found[1]}"


def _unpickled(path: Path) -> Any:
    """What a file of torch.save holds, by running whatever code it names."""
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # a pickle may run any code
        lost = _OF_A_SCRIPT.search(str(error))
        if lost is not None:
            raise ParallelizeError(
                f"{path} holds the class {lost[1]!r} of the script that saved it, which is not known here.",
                f"Give the script with a state dict, as SCRIPT.py:{lost[1]} --weights FILE.",
            ) from error
        raise ParallelizeError(
            f"{path} cannot be unpickled ({described(error)}).",
            "The classes of the model must be importable: run from the directory that has its code.",
        ) from error
