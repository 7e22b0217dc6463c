"""The rooms of the house: imports among them go down only, and each part is small enough to be read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("parallelize", "passes", "paraformer")
BESIDE = ("tests", "benchmarks", "examples")
MOST_LINES, MOST_ENTRIES = 350, 20


def _files(folder: str) -> list[Path]:
    """The modules in a folder, those that a script fetched into a hidden one left out."""
    paths = sorted((ROOT / folder).rglob("*.py"))
    return [path for path in paths if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)]


def _room(module: str) -> str:
    """The folder of a module in a package of ours, or the module where it lies in the package itself."""
    return ".".join(module.split(".")[:2])


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(path: Path) -> Iterator[str]:
    """Modules of ours that a file imports, those for types alone among them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if _is_module(name) else node.module for name in names)


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def _rooms() -> nx.DiGraph:
    """An edge from each room to each other one that it imports, with an example."""
    graph = nx.DiGraph()
    for path in (file for package in PACKAGES for file in _files(package)):
        room = _room(_module(path))
        for name in _imported(path):
            if name.split(".")[0] in PACKAGES and room not in PACKAGES and _room(name) not in (room, *PACKAGES):
                graph.add_edge(room, _room(name), example=f"{_module(path)} imports {name}")
    return graph


def _modules(package: str) -> nx.DiGraph:
    """An edge from each module of a package to each other one of it that it imports, be it for types alone."""
    graph = nx.DiGraph()
    for path in _files(package):
        inside = (name for name in _imported(path) if name.startswith(f"{package}.") and name != _module(path))
        graph.add_edges_from((_module(path), name) for name in inside)
    return graph


def test_no_room_imports_one_that_imports_it() -> None:
    graph = _rooms()
    circles = [room for room in nx.strongly_connected_components(graph) if len(room) > 1]
    examples = [graph.edges[edge]["example"] for circle in circles for edge in sorted(graph.subgraph(circle).edges)]
    assert examples == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_one_that_imports_it(package: str) -> None:
    assert [sorted(circle) for circle in nx.strongly_connected_components(_modules(package)) if len(circle) > 1] == []


@pytest.mark.parametrize("package", ["passes", "paraformer"])
def test_what_is_below_knows_nothing_of_what_is_above(package: str) -> None:
    others = set(PACKAGES) - {package}
    assert {name.split(".")[0] for path in _files(package) for name in _imported(path)}.isdisjoint(others)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_seen_at_one_glance(package: str) -> None:
    entries = [entry for entry in (ROOT / package).iterdir() if entry.suffix == ".py" or any(entry.rglob("*.py"))]
    assert len(entries) <= MOST_ENTRIES


@pytest.mark.parametrize("folder", [*PACKAGES, *BESIDE])
def test_every_file_is_short(folder: str) -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in _files(folder)}
    assert lengths != {}
    assert {path: length for path, length in lengths.items() if length > MOST_LINES} == {}
