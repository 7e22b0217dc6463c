"""Code that the user names, `package.module:name` or `FILE.py:name`: whatever it raises becomes one sentence."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

from parallelize.capturing import first_sentence
from parallelize.inputs import readable
from passes.errors import ParallelizeError


def names_code(reference: str) -> bool:
    """Whether the reference has a module or a .py file before its last colon, and a name behind it."""
    place, _, name = reference.rpartition(":")
    names_module = place.endswith(".py") or re.fullmatch(r"\w+(\.\w+)*", place) is not None
    return names_module and re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name) is not None


def home(reference: str) -> Path:
    """The directory whose modules the code may import: the file's, or the current one."""
    place, _, _ = reference.rpartition(":")
    return (Path(place).parent if place.endswith(".py") else Path()).resolve()


def imported(reference: str) -> tuple[ModuleType, Any]:
    """Import what stands before the last colon; the module, and what the name in it stands for.

    Raises:
        ParallelizeError: it cannot be imported, or has no such name.
    """
    place, _, name = reference.rpartition(":")
    with importable(home(reference)):
        source = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
        try:
            return source, reduce(getattr, name.split("."), source)
        except AttributeError as error:
            raise ParallelizeError(f"{place} has no {name!r}.", "Check the name after the colon.") from error


def called(factory: Any, reference: str) -> Any:
    """What a factory gives when it is called without arguments; a value that cannot be called stands for itself."""
    if not callable(factory):
        return factory
    try:
        return factory()
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise ParallelizeError(
            f"{reference} raised {described(error)}.", "The factory must give the model when called without arguments."
        ) from error


def described(error: BaseException) -> str:
    """Type and first sentence of an exception."""
    name, text = type(error).__name__, first_sentence(error)
    return name if text == name else f"{name}: {text}"


@contextmanager
def importable(directory: Path) -> Iterator[None]:
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
