"""A Python file by its path: imported as `python FILE` would run it, or as a part of the package that it lies in.

    FILE has no relative import        a module of its own, called after the file
    from .blocks import Block          package.FILE; the package is imported first, as Python does
    from ..layers import Norm          package.models.FILE

A package reaches up as far as folders have an `__init__.py`, and as far as relative imports go beyond that.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from passes.errors import ParallelizeError

_TOO_HIGH = "beyond top-level package"  # in the words of the interpreter


def import_file(path: Path) -> ModuleType:
    """Import a file by its absolute path; it is executed even where it was imported before.

    Raises:
        ParallelizeError: it is no Python file.
        Exception: whatever the file raises.
    """
    level = _relative_level(path)
    if not level:
        return _executed(_free(path.stem, path), path)
    return _import_part(path, _packages(path, level))


def _import_part(path: Path, folders: list[Path]) -> ModuleType:
    """Import a file as a part of packages; of one more where a relative import of another file goes higher."""
    try:
        return _executed(f"{_package(folders)}.{path.stem}", path)
    except ImportError as error:
        if _TOO_HIGH not in str(error) or folders[0].parent == folders[0]:
            raise
    return _import_part(path, [folders[0].parent, *folders])


def package_home(path: Path) -> Path:
    """The folder from which the packages that a file lies in can be imported."""
    level = _relative_level(path)
    return _packages(path, level)[0].parent if level or _is_package(path.parent) else path.parent


def _packages(path: Path, level: int) -> list[Path]:
    """The folders of the packages that a file lies in, the outermost first: `level` of them or more."""
    folders = [path.parent]
    while len(folders) < level or _is_package(folders[0].parent):
        folders.insert(0, folders[0].parent)
    return folders


def _is_package(folder: Path) -> bool:
    return (folder / "__init__.py").is_file()


def _relative_level(path: Path) -> int:
    """The most points that a relative import of the file starts with."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return 0  # importing it says what is wrong
    return max((node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)), default=0)


def _package(folders: Sequence[Path]) -> str:
    """Import the packages, from the outermost in; the dotted name of the last."""
    name = ""
    for folder in folders:
        part = folder.name.replace(".", "_")
        parent, name = name, f"{name}.{part}" if name else _free(part, folder / "__init__.py")
        if name not in sys.modules:
            module = _folder(name, folder)
            if parent:
                setattr(sys.modules[parent], part, module)
    return name


def _folder(name: str, folder: Path) -> ModuleType:
    if _is_package(folder):
        return _executed(name, folder / "__init__.py")
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    sys.modules[name] = importlib.util.module_from_spec(spec)
    return sys.modules[name]


def _executed(name: str, path: Path) -> ModuleType:
    folders = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=folders)
    if spec is None or spec.loader is None:
        raise ParallelizeError(f"{path} cannot be imported.", "Name a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # a dataclass looks its module up while it is made
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _free(name: str, path: Path) -> str:
    """The name, or one beside it where an installed module that is loaded already has it."""
    loaded = sys.modules.get(name)
    if loaded is None:
        return name
    file = getattr(loaded, "__file__", None)
    folders = {str(Path(folder).resolve()) for folder in getattr(loaded, "__path__", ())}
    is_same = Path(file).resolve() == path if isinstance(file, str) else str(path.parent) in folders
    return name if is_same else _free(f"_{name}", path)
