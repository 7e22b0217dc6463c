"""MODEL on the command line: what a reference names, and how it becomes a captured program.

    model.pt2                 a torch.export archive
    model.pt, model.pth       a Para-Former checkpoint, or with --allow-pickle a pickled module
    package.module:factory    a callable without arguments that returns a module, or a module itself
    path/to/file.py:factory   the same from a file

Each kind of reference is one row of `KINDS`. No file is unpickled unless the user asks for it: a pickle runs code.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paraformer import checkpoint
from paraformer.errors import ParaFormerError
from parallelize.capturing import capture, first_sentence, from_exported, quiet_logs
from parallelize.inputs import UNNAMED, Array, InputSpec, readable
from parallelize.program import Program, TensorSpec
from passes.errors import EnvironmentLackError, ParallelizeError

_PICKLE_HINT = (
    "Loading it would run code from the file: give package.module:factory with --weights instead,"
    " or add --allow-pickle if you trust whoever made the file."
)
_INPUT_HINT = "Give the shape with --input, such as --input {name}:batchx3x224x224@float32, or data with --inputs."
_UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile)
# Entries of a .pt2 that the loader unpickles whatever it is told: compiled classes and opaque objects.
_OBJECTS = re.compile(r"(custom|opaque)_obj")
_FORCE_SAFE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@dataclass(frozen=True)
class LoadOptions:
    """How to load a reference.

    Attributes:
        weights: state dict for a factory.
        inputs: shapes of the inputs of a factory.
        allow_pickle: unpickle objects, which runs code from the file.
    """

    weights: Path | None = None
    inputs: tuple[InputSpec, ...] = ()
    allow_pickle: bool = False


Loader = Callable[[str, LoadOptions, Mapping[str, Array]], Program]


@dataclass(frozen=True)
class Kind:
    """One kind of model reference.

    Attributes:
        spelling: how a user writes it.
        matches: whether a reference is of this kind; the first kind that says so loads it.
        load: gives the program, or raises ParallelizeError.
    """

    spelling: str
    matches: Callable[[str], bool]
    load: Loader


def load_program(reference: str, options: LoadOptions, samples: Mapping[str, Array] | None = None) -> Program:
    """Load what a reference names and capture it.

    Args:
        reference: as in the module's docstring.
        options: weights and shapes for factories, permission to unpickle.
        samples: arrays of data, first axis samples; they tell the shapes where `options.inputs` does not.

    Raises:
        ParallelizeError: the reference names nothing that can be loaded and captured.
    """
    kind = next((kind for kind in KINDS if kind.matches(reference)), None)
    if kind is not None:
        return kind.load(reference, options, samples or {})
    hint = f"MODEL is one of {', '.join(kind.spelling for kind in KINDS)}."
    if Path(reference).is_dir():
        raise ParallelizeError(f"{reference} is a directory, not a model.", hint)
    if Path(reference).exists():
        raise ParallelizeError(f"{reference} is not a model that can be read.", hint)
    raise ParallelizeError(f"{reference} is neither a file nor a factory.", hint)


# ---------------------------------------------------------------------------------------------------- .pt2


def _load_exported(reference: str, options: LoadOptions, _samples: Mapping[str, Array]) -> Program:
    path = readable(Path(reference))
    _refuse_extras(reference, options, inputs=True)
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise ParallelizeError(
            f"{path} is damaged or not a torch.export archive.", "Write it again with torch.export.save."
        ) from error
    if not options.allow_pickle and any(_OBJECTS.match(Path(name).name) for name in names):
        raise ParallelizeError(f"{path} holds pickled objects.", _PICKLE_HINT)
    try:
        with quiet_logs(), _without_pickles(allow=options.allow_pickle):
            exported = torch.export.load(path)
    except pickle.UnpicklingError as error:
        raise ParallelizeError(f"{path} holds pickled objects.", _PICKLE_HINT) from error
    except Exception as error:  # the loader raises whatever its parts raise
        raise ParallelizeError(
            f"{path} is damaged or was written by a PyTorch that this one does not understand ({_described(error)}).",
            "Write it again with torch.export.save.",
        ) from error
    return from_exported(exported, reference)


@contextmanager
def _without_pickles(*, allow: bool) -> Iterator[None]:
    """Hold the archive loader to tensors; without this it unpickles what it cannot read otherwise."""
    before = os.environ.get(_FORCE_SAFE)
    if not allow:
        os.environ[_FORCE_SAFE] = "1"
    try:
        yield
    finally:
        if before is not None:
            os.environ[_FORCE_SAFE] = before
        elif not allow:
            del os.environ[_FORCE_SAFE]


def _refuse_extras(reference: str, options: LoadOptions, *, inputs: bool) -> None:
    if options.weights is not None:
        raise ParallelizeError(
            f"{reference} has weights of its own.", "Leave out --weights, or name a module:factory to load them into."
        )
    if inputs and options.inputs:
        raise ParallelizeError(f"{reference} states the shapes of its inputs.", "Leave out --input.")


# ---------------------------------------------------------------------------------------------------- .pt, .pth


def _load_file(reference: str, options: LoadOptions, samples: Mapping[str, Array]) -> Program:
    path = readable(Path(reference))
    _refuse_extras(reference, options, inputs=False)
    value = _torch_load(path, options)
    if isinstance(value, nn.Module):
        return _capture(value.eval(), getattr(value, "example_inputs", None), reference, options, samples)
    if checkpoint.is_checkpoint(value):
        return _capture_checkpoint(value, reference, options)
    if isinstance(_state_in(value), dict):
        raise ParallelizeError(
            f"{path} is a state dict: weights without a model.",
            f"Name the model too: package.module:factory --weights {path}.",
        )
    raise ParallelizeError(
        f"{path} holds a {type(value).__name__}, not a model.", "Save the model with torch.export.save."
    )


def _torch_load(path: Path, options: LoadOptions) -> Any:
    """What a file of `torch.save` holds; a module only when unpickling is allowed."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        held = _held(path, error)
        if held is None:
            raise ParallelizeError(
                f"{path} is damaged or not a PyTorch file.", "Copy it again, or make it again."
            ) from error
        if held == "script":
            raise ParallelizeError(
                f"{path} is a TorchScript archive.", "Export the model with torch.export and torch.export.save."
            ) from error
        if not options.allow_pickle:
            raise ParallelizeError(
                f"{path} is a pickled module, or holds other pickled objects.", _PICKLE_HINT
            ) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # a pickle may run any code
        raise ParallelizeError(
            f"{path} cannot be unpickled ({_described(error)}).",
            "The classes of the model must be importable: run from the directory that has its code.",
        ) from error


def _held(path: Path, error: Exception) -> str | None:
    """Why a file did not load: "pickle" and "script" are whole files of another kind, None is a damaged one."""
    if not zipfile.is_zipfile(path):
        is_global = isinstance(error, pickle.UnpicklingError) and "unsupported global" in str(error).lower()
        return "pickle" if is_global else None
    with zipfile.ZipFile(path) as archive:
        names = {Path(name).name for name in archive.namelist()}
    if "constants.pkl" in names:
        return "script"
    return "pickle" if isinstance(error, pickle.UnpicklingError) and "data.pkl" in names else None


def _capture_checkpoint(value: dict[str, Any], reference: str, options: LoadOptions) -> Program:
    try:
        model = checkpoint.from_dict(value, reference).build()
    except ParaFormerError as error:
        raise ParallelizeError(str(error), error.hint) from error
    specs = options.inputs or (InputSpec(None, ("batch", *model.config.input_shape)),)
    return _capture_specs(model, specs, reference, {})


# ---------------------------------------------------------------------------------------------------- factories


def _names_factory(reference: str) -> bool:
    place, _, name = reference.rpartition(":")
    names_module = place.endswith(".py") or re.fullmatch(r"\w+(\.\w+)*", place) is not None
    return names_module and re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name) is not None


def _load_factory(reference: str, options: LoadOptions, samples: Mapping[str, Array]) -> Program:
    place, _, name = reference.rpartition(":")
    directory = Path(place).parent if place.endswith(".py") else Path()
    with _importable(directory.resolve()):
        source = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
        try:
            factory = reduce(getattr, name.split("."), source)
        except AttributeError as error:
            raise ParallelizeError(f"{place} has no {name!r}.", "Check the name after the colon.") from error
        module = factory if isinstance(factory, nn.Module) else _called(factory, reference)
        if not isinstance(module, nn.Module):
            raise ParallelizeError(
                f"{reference} gives a {type(module).__name__}, not a model.", "It must return a torch.nn.Module."
            )
        if options.weights is not None:
            _load_weights(module, options.weights, reference)
        examples = getattr(module, "example_inputs", None)
        examples = getattr(source, "example_inputs", None) if examples is None else examples
        return _capture(module.eval(), examples, reference, options, samples)


@contextmanager
def _importable(directory: Path) -> Iterator[None]:
    """Find modules in a directory as `python` does that runs a file of it."""
    sys.path.insert(0, str(directory))
    try:
        yield
    finally:
        if str(directory) in sys.path:
            sys.path.remove(str(directory))


def _import_file(path: Path) -> ModuleType:
    readable(path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ParallelizeError(f"{path} cannot be imported.", "Name a Python file.")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(path.stem)
    sys.modules[path.stem] = module  # a dataclass looks its module up while it is made
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise _import_error(str(path), error) from error
    finally:
        if before is not None:
            sys.modules[path.stem] = before
    return module


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise _import_error(name, error) from error


def _import_error(origin: str, error: BaseException) -> ParallelizeError:
    return ParallelizeError(
        f"{origin} cannot be imported ({_described(error)}).",
        "It must be installed, or in the current directory, and importing it must not run the program in it.",
    )


def _called(factory: Any, reference: str) -> Any:
    if not callable(factory):
        return factory
    try:
        return factory()
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise ParallelizeError(
            f"{reference} raised {_described(error)}.", "The factory must give the model when called without arguments."
        ) from error


def _described(error: BaseException) -> str:
    """Type and first sentence of an exception."""
    name, text = type(error).__name__, first_sentence(error)
    return name if text == name else f"{name}: {text}"


# ---------------------------------------------------------------------------------------------------- weights


def _load_weights(module: nn.Module, path: Path, reference: str) -> None:
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
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        what = "is damaged or not a PyTorch file" if _held(path, error) is None else "holds more than tensors"
        raise ParallelizeError(
            f"{path} {what}.", "Save the weights with torch.save(model.state_dict(), FILE)."
        ) from error
    state = _state_in(value)
    if state is None:
        raise ParallelizeError(
            f"{path} holds no state dict.", "Save the weights with torch.save(model.state_dict(), FILE)."
        )
    return state


def _state_in(value: Any) -> dict[str, Tensor] | None:
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


# ---------------------------------------------------------------------------------------------------- shapes


def _capture(
    module: nn.Module, examples: Any, origin: str, options: LoadOptions, samples: Mapping[str, Array]
) -> Program:
    """Capture with the shapes that are known: from --input, else from the data, else from `example_inputs`."""
    if options.inputs:
        return _capture_specs(module, options.inputs, origin, samples)
    specs = _specs_of(module, samples)
    if specs:
        return _capture_specs(module, specs, origin, samples)
    if examples is None:
        raise ParallelizeError(_unknown_inputs(module, origin, samples), _INPUT_HINT.format(name=_first_name(module)))
    values = _called(examples, f"example_inputs of {origin}")
    if isinstance(values, Mapping):
        return capture(module, (), dict(values), origin=origin)
    return capture(module, tuple(values) if isinstance(values, tuple | list) else (values,), origin=origin)


def _specs_of(module: nn.Module, samples: Mapping[str, Array]) -> tuple[InputSpec, ...]:
    """The inputs that the data has arrays for; none if it has none for an input that the model cannot do without."""
    if set(samples) == {UNNAMED}:
        return (_spec_of(None, samples[UNNAMED]),)
    parameters = _parameters(module)
    needed = [name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
    if any(name not in samples for name in needed):
        return ()
    return tuple(_spec_of(name, samples[name]) for name in parameters if name in samples)


def _spec_of(name: str | None, array: Array) -> InputSpec:
    """The input that an array of samples is for: bytes are pixels and doubles are careless, both mean float32."""
    if array.ndim == 0 or array.dtype.kind not in "fiub":
        raise ParallelizeError(
            f"The array {name or 'of the data'!r} is no array of samples.", "Save numbers, first axis samples."
        )
    plain = array[:0].astype(np.float32) if array.dtype in (np.uint8, np.float64) else array[:0]
    dtype = torch.from_numpy(plain.astype(plain.dtype.newbyteorder("="))).dtype
    return InputSpec(name, ("batch", *array.shape[1:]), dtype)


def _parameters(module: nn.Module) -> dict[str, inspect.Parameter]:
    """The parameters of `forward` that have a name of their own."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(module.forward).parameters
    return {name: parameter for name, parameter in parameters.items() if parameter.kind in kinds}


def _first_name(module: nn.Module) -> str:
    return next(iter(_parameters(module)), "images")


def _unknown_inputs(module: nn.Module, origin: str, samples: Mapping[str, Array]) -> str:
    names = ", ".join(map(repr, _parameters(module)))
    held = ", ".join(map(repr, samples))
    return f"The shapes of the inputs of {origin} are not known: it reads {names}" + (
        f", the data holds {held}." if samples else "."
    )


def _capture_specs(module: nn.Module, specs: Sequence[InputSpec], origin: str, samples: Mapping[str, Array]) -> Program:
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
    unknown = [name for name in names if name not in _parameters(module)]
    if not unknown or inspect.Parameter.VAR_KEYWORD in kinds:
        return
    raise ParallelizeError(
        f"{origin} has no input {unknown[0]!r}: it reads {', '.join(map(repr, _parameters(module)))}.",
        "Name an input as forward does, or leave the name out.",
    )


def _has_suffix(*suffixes: str) -> Callable[[str], bool]:
    return lambda reference: Path(reference).suffix in suffixes


KINDS: tuple[Kind, ...] = (
    Kind("FILE.pt2", _has_suffix(".pt2"), _load_exported),
    Kind("FILE.pt", _has_suffix(".pt", ".pth"), _load_file),
    Kind("package.module:factory or FILE.py:factory", _names_factory, _load_factory),
)
