"""Every module that does something has a file of tests in the room of its name, or a word on where it is shown."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("passes", "paraformer", "parallelize")

# modules and folders of modules that other tests show, and which
SHOWN_BY = {
    "paraformer/errors.py": "tests/paraformer/test_checkpoint.py",
    "paraformer/training/row.py": "tests/paraformer/training/test_joined_shares.py",
    "paraformer/training/spread_branches.py": "tests/paraformer/training/test_joined_shares.py",
    "parallelize/__init__.py": "tests/parallelize/test_public_names.py",
    "parallelize/backends/tensorrt/runner.py": "tests/parallelize/backends/tensorrt/test_engine.py",
    "parallelize/cli/engines.py": "tests/parallelize/cli/engines/test_build.py",
    "parallelize/conversion/engine_result.py": "tests/parallelize/conversion/test_result.py",
    "parallelize/conversion/loading/loaded.py": "tests/parallelize/conversion/loading/test_program.py",
    "parallelize/conversion/loading/origin.py": "tests/parallelize/conversion/loading/test_load.py",
    "parallelize/conversion/making.py": "tests/parallelize/conversion/test_rewrite.py",
    "parallelize/conversion/options.py": "tests/parallelize/conversion/test_engine_options.py",
    "parallelize/machine/rank_group.py": "tests/parallelize/cli/test_run_ranks.py",
    "parallelize/healing/leaf_state.py": "tests/parallelize/healing/test_gradients.py",
    "parallelize/healing/spread.py": "tests/parallelize/healing/test_gradients.py",
    "parallelize/machine/pulse.py": "tests/parallelize/machine/test_joined_ranks.py",
    "parallelize/machine/rank_errors.py": "tests/parallelize/machine/test_joined_ranks.py",
    "parallelize/metrics/__init__.py": "tests/parallelize/metrics/test_catalogue.py",
    "parallelize/metrics/catalogue": "tests/parallelize/metrics/test_catalogue.py",
    "parallelize/models/sources/__init__.py": "tests/parallelize/models/sources/test_kinds.py",
    "parallelize/planning/search.py": "tests/parallelize/planning/test_planner.py",
}


def _does_something(path: Path) -> bool:
    """Whether a module defines a function or method with more than a docstring."""
    functions = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef))
    return any(not all(_is_nothing(part) for part in function.body) for function in functions)


def _is_nothing(part: ast.stmt) -> bool:
    return isinstance(part, ast.Pass) or (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))


def _modules(package: str) -> list[Path]:
    """The modules of a package that do something, from the root."""
    return [path.relative_to(ROOT) for path in sorted((ROOT / package).rglob("*.py")) if _does_something(path)]


def _tests_of(module: Path) -> list[Path]:
    """The file of tests of a module's name, or the one that shows it."""
    shown = [ROOT / SHOWN_BY[str(part)] for part in (module, module.parent) if str(part) in SHOWN_BY]
    return [*shown, ROOT / "tests" / module.parent / f"test_{module.stem}.py"]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_that_does_something_has_tests(package: str) -> None:
    modules = _modules(package)
    assert modules
    assert [str(module) for module in modules if not any(path.exists() for path in _tests_of(module))] == []


def test_what_is_said_to_be_shown_elsewhere_is_there_and_so_is_what_shows_it() -> None:
    assert [path for pair in SHOWN_BY.items() for path in pair if not (ROOT / path).exists()] == []
