"""Where the user's code runs: its modules, its search path and its arguments are its own.

    what the code does          what it finds
    import layers               the module beside it, whatever module of that name another model's code has imported
    import passes               its own module of that name, where it has one, though a package of ours is called so
    import parallelize          ours, which finds its own parts even then
    sys.path.append(...)        kept for its own later imports
    sys.argv                    its own name and no arguments: those of the command line are ours

All of it holds while the code runs and is put away when it ends: modules that were loaded from the code's directories
leave `sys.modules`, and come back with the search path when code of the same directories runs again.
"""

from __future__ import annotations

import builtins
import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

_ROOT = Path(__file__).resolve().parents[3]
_OURS = ("parallelize", "paraformer", "passes", "tests")  # the last where a checkout is run


class Surroundings:
    """The modules and the search path of code that lies in certain directories."""

    def __init__(self, front: tuple[Path, ...], last: tuple[Path, ...]) -> None:
        """Surroundings that no code has run in yet.

        Args:
            front: directories whose modules hide installed ones, as that of a script does.
            last: directories whose modules are found where nothing else has the name.
        """
        self._front, self._last = [str(path) for path in front], [str(path) for path in last]
        self._taken: frozenset[str] = frozenset()  # names of ours that it has modules of its own for
        self._modules: dict[str, ModuleType] = {}  # its own, while it does not run
        self._path: list[str] = []  # its search path, while it does not run
        self._hidden: dict[str, ModuleType] = {}  # others of the same names, while it runs
        self._before: tuple[set[str], list[str]] = set(), []  # modules and search path of everyone else
        self._is_inside = False

    @contextmanager
    def entered(self, program: str) -> Iterator[None]:
        """Run the code in its surroundings; `program` is what it finds as `sys.argv[0]`."""
        if self._is_inside:
            yield
            return
        importlib.invalidate_caches()
        self._taken = frozenset(name for name in _OURS if _is_anothers(name, self._front))
        arguments, find = sys.argv, builtins.__import__
        self._enter()
        sys.argv = [program]
        if self._taken:
            builtins.__import__ = self._importing(find)
        try:
            yield
        finally:
            builtins.__import__ = find
            sys.argv = arguments
            self._leave()

    def _enter(self) -> None:
        self._is_inside = True
        before = sys.path.copy()
        own = self._path or [*self._front, *before, *self._last]
        sys.path[:] = [*own, *(entry for entry in before if entry not in own)]
        alike = [name for name in sys.modules if name.partition(".")[0] in self._taken or name in self._modules]
        self._hidden = {name: sys.modules.pop(name) for name in alike}
        self._before = set(sys.modules), before
        sys.modules.update(self._modules)

    def _leave(self) -> None:
        modules, path = self._before
        places = [entry for entry in sys.path if entry in self._front or entry not in path]
        new = {name: module for name, module in sys.modules.items() if name not in modules}
        self._modules = {name: module for name, module in new.items() if self._is_own(name, module, places)}
        self._path = sys.path.copy()
        for name in self._modules:
            del sys.modules[name]
        sys.modules.update(self._hidden)
        sys.path[:] = path
        self._is_inside = False

    def _is_own(self, name: str, module: ModuleType, places: list[str]) -> bool:
        """Whether a module is the code's: the nearest entry of the search path above its file is one of its places."""
        top = name.partition(".")[0]
        if top in _OURS and top not in self._taken:
            return False
        file = _file(module)
        above = [Path(entry).resolve() for entry in sys.path]
        above = [entry for entry in above if file is not None and file.is_relative_to(entry)]
        nearest = max(above, key=lambda entry: len(entry.parts), default=None)
        return nearest is not None and nearest in {Path(place).resolve() for place in places}

    def _importing(self, find: Any) -> Any:
        """`__import__` for as long as the code hides a package of ours: what our own modules import is ours."""

        def imports(name: str, *rest: Any, **named: Any) -> Any:
            importer = named.get("globals", rest[0] if rest else None)
            if not self._is_inside or not _is_ours(importer):
                return find(name, *rest, **named)
            self._leave()
            try:
                return find(name, *rest, **named)
            finally:
                self._enter()

        return imports


@cache
def surroundings(front: tuple[Path, ...], last: tuple[Path, ...] = ()) -> Surroundings:
    """The surroundings of code in these directories: one and the same each time, so that its modules load once."""
    return Surroundings(front, last)


def _is_anothers(name: str, directories: list[str]) -> bool:
    """Whether the directories have a module of this name that is not ours; a folder without Python files is none."""
    spec = PathFinder.find_spec(name, directories)
    if spec is None:
        return False
    if spec.origin is not None and spec.has_location:
        return not Path(spec.origin).resolve().is_relative_to(_ROOT / name)
    folders = [Path(folder).resolve() for folder in spec.submodule_search_locations or ()]
    return any(folder != _ROOT / name and any(folder.glob("*.py")) for folder in folders)


def _is_ours(importer: Mapping[str, Any] | None) -> bool:
    file = None if importer is None else importer.get("__file__")
    return isinstance(file, str) and any(Path(file).is_relative_to(_ROOT / name) for name in _OURS)


def _file(module: ModuleType) -> Path | None:
    """Where a module lies: its file, or the folder of a package without one."""
    file = getattr(module, "__file__", None)
    folders = [] if isinstance(file, str) else list(getattr(module, "__path__", ()))
    found = file if isinstance(file, str) else next(iter(folders), None)
    return Path(found).resolve() if isinstance(found, str) else None
