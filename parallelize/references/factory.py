"""`package.module:factory`, `FILE.py:factory`: a callable without arguments that returns a module, or a module."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from types import ModuleType

from torch import nn

from parallelize.inputs import Array, readable
from parallelize.program import Program
from parallelize.references.kinds import LoadOptions
from parallelize.references.shapes import capture_known
from parallelize.references.user_code import called, described
from parallelize.references.weights import load_weights
from passes.errors import ParallelizeError


def names_factory(reference: str) -> bool:
    """Whether the reference has a module or a .py file before its last colon, and a name behind it."""
    place, _, name = reference.rpartition(":")
    names_module = place.endswith(".py") or re.fullmatch(r"\w+(\.\w+)*", place) is not None
    return names_module and re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name) is not None


def load(reference: str, options: LoadOptions, samples: Mapping[str, Array]) -> Program:
    """Import, call, load `--weights` where they are given, and capture in eval mode."""
    place, _, name = reference.rpartition(":")
    directory = Path(place).parent if place.endswith(".py") else Path()
    with _importable(directory.resolve()):
        source = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
        try:
            factory = reduce(getattr, name.split("."), source)
        except AttributeError as error:
            raise ParallelizeError(f"{place} has no {name!r}.", "Check the name after the colon.") from error
        module = factory if isinstance(factory, nn.Module) else called(factory, reference)
        if not isinstance(module, nn.Module):
            raise ParallelizeError(
                f"{reference} gives a {type(module).__name__}, not a model.", "It must return a torch.nn.Module."
            )
        if options.weights is not None:
            load_weights(module, options.weights, reference)
        examples = getattr(module, "example_inputs", None)
        examples = getattr(source, "example_inputs", None) if examples is None else examples
        return capture_known(module.eval(), examples, reference, options, samples)


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
        f"{origin} cannot be imported ({described(error)}).",
        "It must be installed, or in the current directory, and importing it must not run the program in it.",
    )
