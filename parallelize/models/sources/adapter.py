"""An adapter of peft, such as LoRA: merged into its base model, because what is captured is one network.

    DIR with config.json and adapter_config.json    the base model lies beside the adapter
    DIR with adapter_config.json alone              the base model is the directory that the config names, as
                                                    seen from here or from DIR, else one of that name beside DIR

Refused: an adapter without peft, one whose base model is not on this machine, and one that does not fit it.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

from torch import nn

from parallelize.machine.quiet import quiet_logs
from parallelize.models.sources.user_code import described
from passes.errors import EnvironmentLackError, ParallelizeError

_CONFIG = "adapter_config.json"
_FILES = (_CONFIG, "adapter_model.safetensors", "adapter_model.bin")
_MERGE_HINT = "Merge it where it was made, and save the result: model.merge_and_unload().save_pretrained(DIR)."


def has_adapter(directory: Path) -> bool:
    """Whether an adapter lies in a directory."""
    return any((directory / name).is_file() for name in _FILES)


def import_peft(directory: Path) -> ModuleType:
    """The library that merges adapters.

    Raises:
        EnvironmentLackError: it is not installed, or does not import.
    """
    try:
        return importlib.import_module("peft")
    except Exception as error:  # a peft for another transformers raises whatever fails first in it
        is_absent = isinstance(error, ModuleNotFoundError) and error.name == "peft"
        why = "peft is not installed" if is_absent else f"peft does not import ({described(error)})"
        raise EnvironmentLackError(
            f"{directory} holds a LoRA adapter, which cannot be merged into its base model: {why}.",
            "Install it with `pip install peft`, or merge the adapter where it was made: model.merge_and_unload().",
        ) from error


def base_of(directory: Path) -> Path:
    """The directory of the model that a lone adapter belongs to.

    Raises:
        ParallelizeError: the adapter does not say, or the model is not on this machine.
    """
    try:
        named = json.loads((directory / _CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ParallelizeError(f"{directory} is a LoRA adapter that names no base model.", _MERGE_HINT) from error
    places = (Path(str(named)), directory / str(named), directory.resolve().parent / Path(str(named)).name)
    found = next((place for place in places if place.is_dir() and place.resolve() != directory.resolve()), None)
    if found is None:
        raise ParallelizeError(
            f"{directory} is a LoRA adapter of {named!r}, which is no directory on this machine.",
            f"Save the base model to a directory that {_CONFIG} names as base_model_name_or_path.",
        )
    return found


@contextmanager
def without_adapter(directory: Path) -> Iterator[Path]:
    """The directory without the adapter in it, for a loader that would put the adapter in, unmerged, by itself."""
    with TemporaryDirectory(prefix="parallelize-") as scratch:
        for path in directory.iterdir():
            if path.name not in _FILES:
                (Path(scratch) / path.name).symlink_to(path.resolve())
        yield Path(scratch)


def merged(module: nn.Module, directory: Path) -> nn.Module:
    """The module with the adapter of a directory in its weights.

    Raises:
        EnvironmentLackError: peft is not installed.
        ParallelizeError: the adapter does not fit the module, is damaged, or is of a kind that has no weights to merge.
    """
    peft = import_peft(directory)
    try:
        with quiet_logs("torch", "transformers", "peft"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft's own; what they tell of is refused below
            wrapped = peft.PeftModel.from_pretrained(module, str(directory))
            held = set(peft.load_peft_weights(str(directory), device="cpu"))
            taken = set(peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False))
            if held == taken:
                result = wrapped.merge_and_unload(safe_merge=True)
    except Exception as error:  # whatever peft, safetensors and the unpickler raise
        raise ParallelizeError(
            f"The adapter of {directory} cannot be merged ({described(error)}).", _MERGE_HINT
        ) from error
    if held != taken:
        raise ParallelizeError(
            f"The adapter of {directory} does not fit its base model: {min(held ^ taken)!r} is in one of them only.",
            "Give the base model that it was trained on.",
        )
    assert isinstance(result, nn.Module)
    return result.eval()
