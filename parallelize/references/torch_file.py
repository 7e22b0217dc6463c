"""`model.pt`, `model.pth`: a Para-Former checkpoint, or a pickled module where the user allows unpickling."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from paraformer import checkpoint
from paraformer.errors import ParaFormerError
from parallelize.inputs import Array, InputSpec, readable
from parallelize.program import Program
from parallelize.references.kinds import LoadOptions, refuse_extras
from parallelize.references.shapes import capture_known, capture_specs
from parallelize.references.surroundings import surroundings
from parallelize.references.user_code import described
from parallelize.references.weights import UNREADABLE, is_pickle, is_script, state_in
from passes.errors import ParallelizeError

PICKLE_HINT = (
    "Loading it would run code from the file: give package.module:factory with --weights instead,"
    " or add --allow-pickle if you trust whoever made the file."
)

_OF_A_SCRIPT = re.compile(r"Can't get attribute '(\w+)' on <module '[\w.]*__main__'")  # in the words of pickle


def load(reference: str, options: LoadOptions, samples: Mapping[str, Array]) -> Program:
    """Read a file of `torch.save` that holds a whole model.

    A pickled module finds its class in the current directory, or beside its file.
    """
    path = readable(Path(reference))
    refuse_extras(reference, options, inputs=False)
    with surroundings((Path.cwd(), path.resolve().parent)).entered(str(path)):
        value = _torch_load(path, options)
        if isinstance(value, nn.Module):
            return capture_known(value.eval(), getattr(value, "example_inputs", None), reference, options, samples)
    if checkpoint.is_checkpoint(value):
        return _capture_checkpoint(value, reference, options)
    if isinstance(state_in(value), dict):
        raise ParallelizeError(
            f"{path} is a state dict: weights without a model.",
            f"Name the model too: package.module:factory --weights {path}.",
        )
    raise ParallelizeError(
        f"{path} holds a {type(value).__name__}, not a model.", "Save the model with torch.export.save."
    )


def _torch_load(path: Path, options: LoadOptions) -> Any:
    """What a file of `torch.save` holds; a module only when unpickling is allowed."""
    if is_script(path):
        raise ParallelizeError(
            f"{path} is a TorchScript archive.", "Export the model with torch.export and torch.export.save."
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        if not is_pickle(path, error):
            raise ParallelizeError(
                f"{path} is damaged or not a PyTorch file.", "Copy it again, or make it again."
            ) from error
        if not options.allow_pickle:
            raise ParallelizeError(
                f"{path} is a pickled module, or holds other pickled objects.", PICKLE_HINT
            ) from error
    return unpickled(path)


def unpickled(path: Path) -> Any:
    """What a file of `torch.save` holds, by running whatever code it names.

    Raises:
        ParallelizeError: the code is not found, or raises.
    """
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


def _capture_checkpoint(value: dict[str, Any], reference: str, options: LoadOptions) -> Program:
    try:
        model = checkpoint.from_dict(value, reference).build()
    except ParaFormerError as error:
        raise ParallelizeError(str(error), error.hint) from error
    specs = options.inputs or (InputSpec(None, ("batch", *model.config.input_shape)),)
    return capture_specs(model, specs, reference, {})
