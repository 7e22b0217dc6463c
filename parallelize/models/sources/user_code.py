"""Code that the user names, `package.module:name` or `FILE.py:name`: whatever it raises becomes one sentence.

It is found as `python` finds it: a module among the installed ones and in the current directory, a file by its path. A
file with relative imports is imported as a part of the package that it lies in.
"""

from __future__ import annotations

import importlib
import re
from contextlib import AbstractContextManager
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

from parallelize.data import readable
from parallelize.models.capture import first_sentence
from parallelize.models.sources.source_file import import_file, package_home
from parallelize.models.sources.surroundings import surroundings
from passes.errors import ParallelizeError


def names_code(reference: str) -> bool:
    """Whether the reference has a module or a .py file before its last colon, and a name behind it."""
    place, _, name = reference.rpartition(":")
    names_module = place.endswith(".py") or re.fullmatch(r"\w+(\.\w+)*", place) is not None
    return names_module and re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name) is not None


def at_home(reference: str) -> AbstractContextManager[None]:
    """The surroundings of the code: the directory of its file and of its package, or the current one.

    Whatever of the code runs, runs in them: its import, its factory, its `forward`.
    """
    place, _, _ = reference.rpartition(":")
    if not place.endswith(".py"):
        return surroundings((Path.cwd(),)).entered(place)
    file = Path(place).resolve()
    return surroundings(tuple(dict.fromkeys((file.parent, package_home(file)))), (Path.cwd(),)).entered(place)


def imported(reference: str) -> tuple[ModuleType, Any]:
    """Import what stands before the last colon; the module, and what the name in it stands for.

    Raises:
        ParallelizeError: it cannot be imported, or has no such name.
    """
    place, _, name = reference.rpartition(":")
    with at_home(reference):
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


def _import_file(path: Path) -> ModuleType:
    try:
        return import_file(readable(path).resolve())
    except ParallelizeError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise _import_error(str(path), error) from error


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
