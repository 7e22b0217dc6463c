"""Capture of a module whose inputs are told by `--input`, by the data, or by `example_inputs`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from parallelize.data import UNNAMED, Array, InputSpec
from parallelize.data.tensor_spec import TensorSpec
from parallelize.models.capture import capture
from parallelize.models.keywords import takes_any
from parallelize.models.program import Program
from parallelize.models.source import LoadOptions
from parallelize.models.sources.data_specs import specs_of_arrays
from parallelize.models.sources.user_code import called
from passes.errors import ParallelizeError

_INPUT_HINT = "Give the shape with --input, such as --input {name}:batchx3x224x224@float32, or data with --inputs."


def capture_known(
    module: nn.Module, examples: Any, origin: str, options: LoadOptions, samples: Mapping[str, Array]
) -> Program:
    """Capture with the shapes that are known: from --input, else from the data, else from `example_inputs`."""
    if options.input_specs:
        return capture_specs(module, options.input_specs, origin, samples)
    specs = _specs_of(module, samples)
    if specs:
        return capture_specs(module, specs, origin, samples)
    if examples is None:
        raise ParallelizeError(_unknown_inputs(module, origin, samples), _INPUT_HINT.format(name=_first_name(module)))
    values = called(examples, f"example_inputs of {origin}")
    if isinstance(values, Mapping):
        return capture(module, (), dict(values), origin=origin)
    return capture(module, tuple(values) if isinstance(values, tuple | list) else (values,), origin=origin)


def _specs_of(module: nn.Module, samples: Mapping[str, Array]) -> tuple[InputSpec, ...]:
    """The inputs that the data has arrays for; none if it has none for an input that the model cannot do without."""
    if set(samples) == {UNNAMED}:
        return specs_of_arrays(module, {None: samples[UNNAMED]})
    parameters = forward_parameters(module)
    needed = [name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
    if any(name not in samples for name in needed):
        return ()
    if not parameters and takes_any(module):  # whatever the data has is an input, but for what is for a loss
        return specs_of_arrays(module, {name: array for name, array in samples.items() if "label" not in name})
    return specs_of_arrays(module, {name: samples[name] for name in parameters if name in samples})


def forward_parameters(module: nn.Module) -> dict[str, inspect.Parameter]:
    """The parameters of `forward` that have a name of their own."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(module.forward).parameters
    return {name: parameter for name, parameter in parameters.items() if parameter.kind in kinds}


def _first_name(module: nn.Module) -> str:
    return next(iter(forward_parameters(module)), "images")


def _unknown_inputs(module: nn.Module, origin: str, samples: Mapping[str, Array]) -> str:
    names = ", ".join(map(repr, forward_parameters(module))) or "any inputs by name"
    held = ", ".join(map(repr, samples))
    return f"The shapes of the inputs of {origin} are not known: it reads {names}" + (
        f", the data holds {held}." if samples else "."
    )


def capture_specs(module: nn.Module, specs: Sequence[InputSpec], origin: str, samples: Mapping[str, Array]) -> Program:
    """Capture on zeros; a free dimension is as long as in the data, so that what must divide it does."""
    _refuse_names(module, specs, origin)
    sizes: dict[str, int] = {}
    for spec in specs:
        held = samples[spec.name].shape if spec.name is not None and spec.name in samples else ()
        if len(held) == len(spec.shape):
            sizes |= {word: size for word, size in zip(spec.shape[1:], held[1:], strict=True) if isinstance(word, str)}
    tensors = [
        torch.zeros(TensorSpec(spec.name or "", spec.shape, spec.dtype).sizes(sizes), dtype=spec.dtype)
        for spec in specs
    ]
    dims = [{axis: word for axis, word in enumerate(spec.shape) if isinstance(word, str)} for spec in specs]
    places = [spec.name is None for spec in specs]
    args = tuple(tensor for tensor, placed in zip(tensors, places, strict=True) if placed)
    kwargs = {str(spec.name): tensor for spec, tensor in zip(specs, tensors, strict=True) if spec.name is not None}
    ordered = sorted(range(len(specs)), key=lambda index: not places[index])
    return capture(module, args, kwargs, dynamic=[dims[index] for index in ordered], origin=origin)


def _refuse_names(module: nn.Module, specs: Sequence[InputSpec], origin: str) -> None:
    """A name that `forward` does not know would be a TypeError deep in the model."""
    names = [spec.name for spec in specs if spec.name is not None]
    if len(set(names)) < len(names):
        raise ParallelizeError(f"An input of {origin} is given twice.", "Give one --input for each input.")
    kinds = {parameter.kind for parameter in inspect.signature(module.forward).parameters.values()}
    unknown = [name for name in names if name not in forward_parameters(module)]
    if not unknown or inspect.Parameter.VAR_KEYWORD in kinds:
        return
    raise ParallelizeError(
        f"{origin} has no input {unknown[0]!r}: it reads {', '.join(map(repr, forward_parameters(module)))}.",
        "Name an input as forward does, or leave the name out.",
    )
