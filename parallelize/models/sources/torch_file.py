"""`model.pt`, `model.pth`: a Para-Former checkpoint, or a pickled module where the user allows unpickling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from paraformer import checkpoint
from parallelize.data import Array, readable
from parallelize.models.program import Program
from parallelize.models.source import LoadOptions
from parallelize.models.sources.kinds import Kind, has_suffix, refuse_extras
from parallelize.models.sources.para_former import capture_checkpoint
from parallelize.models.sources.shapes import capture_known
from parallelize.models.sources.state_files import is_state_dict, modules_in, read_torch
from parallelize.models.sources.surroundings import surroundings
from passes.errors import ParallelizeError

PICKLE_HINT = (
    "Loading it would run code from the file: give package.module:factory with --weights instead,"
    " or add --allow-pickle if you trust whoever made the file."
)


def load(reference: str, options: LoadOptions, samples: Mapping[str, Array]) -> Program:
    """Read a file of `torch.save` that holds a whole model.

    A pickled module finds its class in the current directory, or beside its file.
    """
    path = readable(Path(reference))
    refuse_extras(reference, replace(options, weights_key=None), inputs=False)
    with surroundings((Path.cwd(), path.resolve().parent)).entered(str(path)):
        what = "is a pickled module, or holds other pickled objects"
        value = read_torch(path, allow_pickle=options.allow_pickle, what=what, hint=PICKLE_HINT)
        module = _module_in(value, options.weights_key, path)
        if module is not None:
            return capture_known(module.eval(), getattr(module, "example_inputs", None), reference, options, samples)
    if checkpoint.is_checkpoint(value):
        return capture_checkpoint(value, reference, options, samples)
    if is_state_dict(value):
        raise ParallelizeError(
            f"{path} is a state dict: weights without a model.",
            f"Name the model too: package.module:factory --weights {path}.",
        )
    raise ParallelizeError(
        f"{path} holds a {type(value).__name__}, not a model.", "Save the model with torch.export.save."
    )


def _module_in(value: Any, key: str | None, path: Path) -> nn.Module | None:
    """The module of a file, which may lie in a dictionary beside other things; None where there is none."""
    found = modules_in(value)
    if key is None and len(found) < 2:
        return next(iter(found.values()), None)
    if key in found:
        return found[key]
    names = ", ".join(map(repr, found)) or "none"
    wanted = "several modules" if key is None else f"no module under the key {key!r}"
    raise ParallelizeError(f"{path} holds {wanted}: it has {names}.", "Choose one with --weights-key.")


KINDS = (Kind("FILE.pt", has_suffix(".pt", ".pth", ".ckpt", ".bin"), load, place=50),)
