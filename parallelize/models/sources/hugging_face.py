"""A directory that Hugging Face's `save_pretrained` wrote: config.json, and the weights beside it.

The class is the first of the config's `architectures`, as the installed transformers has it. Nothing is downloaded, no
code of the directory is run and no pickle is read beyond its tensors. The model is loaded as float32, in eval mode, and
returns no cache. An adapter of peft in the directory is merged into the weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from parallelize.data import Array
from parallelize.machine.quiet import quiet_logs
from parallelize.models.program import Program
from parallelize.models.source import LoadOptions
from parallelize.models.sources.adapter import base_of, has_adapter, import_peft, merged, without_adapter
from parallelize.models.sources.hugging_face_inputs import input_specs
from parallelize.models.sources.kinds import Kind, refuse_extras
from parallelize.models.sources.shapes import capture_specs
from parallelize.models.sources.user_code import described
from passes.errors import EnvironmentLackError, ParallelizeError

_CONFIG = "config.json"
_SAVE_HINT = "Write the directory again with model.save_pretrained(DIR)."
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def is_saved_model(reference: str) -> bool:
    """Whether the reference is a directory with a config.json, or with an adapter for a model elsewhere."""
    return (Path(reference) / _CONFIG).is_file() or has_adapter(Path(reference))


def load(reference: str, options: LoadOptions, samples: Mapping[str, Array]) -> Program:
    """Load the model and capture it; its inputs are told by `--input`, else by the data and the config.

    Raises:
        EnvironmentLackError: transformers is not installed, or peft where there is an adapter.
        ParallelizeError: the directory is incomplete or damaged, needs code of its own, is of a type that transformers
            does not know, or holds a model that cannot be captured.
    """
    refuse_extras(reference, options, inputs=False)
    module, directory = _module(Path(reference), reference)
    specs = options.input_specs or input_specs(module, module.config, directory, samples)
    return capture_specs(module, specs, reference, samples)


def _module(directory: Path, reference: str) -> tuple[nn.Module, Path]:
    """The model of a directory with its adapter merged, and the directory that tells of its inputs."""
    if not has_adapter(directory):
        return _plain_module(directory, reference), directory
    import_peft(directory)
    if (directory / _CONFIG).is_file():
        with without_adapter(directory) as bare:
            module, base = _plain_module(bare, reference), directory
    else:
        module, base = _module(base_of(directory), reference)
    return merged(module, directory), base


def _plain_module(directory: Path, reference: str) -> nn.Module:
    """The model of a directory that has no adapter."""
    written = _read_config(directory)
    transformers = _import_transformers(reference)
    with quiet_logs("torch", "transformers"), _without_progress(transformers):
        return _load_weights(transformers, directory, _config(transformers, directory, written))


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / _CONFIG
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParallelizeError(f"{path} cannot be read: {error.strerror}.", "Check who may read the file.") from error
    except ValueError as error:
        raise ParallelizeError(f"{path} is damaged or not JSON.", _SAVE_HINT) from error
    if not isinstance(written, dict) or not isinstance(written.get("model_type"), str):
        raise ParallelizeError(f"{path} names no model_type.", "It must be the config of a transformers model.")
    if "quantization_config" in written:
        raise ParallelizeError(f"{directory} holds quantized weights.", "Save the model before it was quantized.")
    return written


def _import_transformers(reference: str) -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        is_absent = isinstance(error, ModuleNotFoundError) and error.name == "transformers"
        why = "transformers is not installed" if is_absent else f"transformers does not import ({described(error)})"
        raise EnvironmentLackError(
            f"{reference} cannot be loaded: {why}.", 'Install it with `pip install "parallelize[hf]"`.'
        ) from error
    return transformers


@contextmanager
def _without_progress(transformers: ModuleType) -> Iterator[None]:
    """Loading draws a bar of its own."""
    logging = transformers.utils.logging
    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


def _config(transformers: ModuleType, directory: Path, written: Mapping[str, Any]) -> Any:
    """The config with the cache switched off, which is no tensor that a graph could return."""
    model_type = written["model_type"]
    if model_type not in transformers.CONFIG_MAPPING:
        if "auto_map" in written:
            raise _own_code(directory, f"model_type {model_type!r}")
        version = transformers.__version__
        raise ParallelizeError(
            f"{directory} has the model_type {model_type!r}, which transformers {version} does not know.",
            "Install the version of transformers that wrote it: config.json has it as transformers_version.",
        )
    try:
        config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # each config has checks of its own
        raise ParallelizeError(f"{directory / _CONFIG} is no config ({described(error)}).", _SAVE_HINT) from error
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if hasattr(part, "use_cache"):
            part.use_cache = False
    return config


def _own_code(directory: Path, what: str) -> ParallelizeError:
    return ParallelizeError(
        f"The {what} of {directory} is code that comes with the model, which is not run.",
        "Write a factory that builds the model, and name it as file.py:factory.",
    )


def _model_class(transformers: ModuleType, directory: Path, config: Any) -> Any:
    """The class that the config names, AutoModel where it names none that transformers has."""
    name = (config.architectures or [None])[0]
    found = getattr(transformers, name, None) if isinstance(name, str) and name.isidentifier() else None
    if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
        return found
    if name is not None and getattr(config, "auto_map", None):
        raise _own_code(directory, f"class {name!r}")
    return transformers.AutoModel


def _load_weights(transformers: ModuleType, directory: Path, config: Any) -> nn.Module:
    """The model in eval mode; every parameter comes from the directory."""
    if not any((directory / name).is_file() for name in _WEIGHTS):
        raise ParallelizeError(f"{directory} has no weights: neither {_WEIGHTS[0]} nor {_WEIGHTS[2]}.", _SAVE_HINT)
    found = _model_class(transformers, directory, config)
    try:
        module, info = found.from_pretrained(
            directory,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            weights_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # whatever transformers, safetensors and the unpickler raise
        raise ParallelizeError(
            f"The weights of {directory} are damaged or do not fit its config ({described(error)}).",
            "Copy the directory again, or write it again with model.save_pretrained(DIR).",
        ) from error
    named = type(module).__name__
    missing = sorted(info["missing_keys"])
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ParallelizeError(
            f"{directory} lacks the weight {missing[0]!r}{more} of {named}.",
            "They would be random: save the whole model, or name the class that was saved under architectures.",
        )
    if found is transformers.AutoModel and config.architectures and info["unexpected_keys"]:
        raise ParallelizeError(
            f"transformers has no class {config.architectures[0]!r}, and {named} leaves out the weight"
            f" {min(info['unexpected_keys'])!r} of {directory}.",
            "Write a factory that builds the model, and name it as file.py:factory.",
        )
    assert isinstance(module, nn.Module)
    return module.eval()


KINDS = (Kind("a directory with config.json", is_saved_model, load, place=10),)
