"""Every module that does something has a file of tests in the room of its name, or a word on where it is shown."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("passes", "paraformer")

# modules that are shown by the tests of another one
SHOWN_BY = {
    "paraformer/errors.py": "tests/paraformer/test_checkpoint.py",
}


def _does_something(path: Path) -> bool:
    """Whether a module defines a function or method with more than a docstring."""
    functions = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef))
    return any(not all(_is_nothing(part) for part in function.body) for function in functions)


def _is_nothing(part: ast.stmt) -> bool:
    return isinstance(part, ast.Pass) or (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))


def _modules(package: str) -> list[str]:
    paths = sorted((ROOT / package).rglob("*.py"))
    return [str(path.relative_to(ROOT)) for path in paths if _does_something(path)]


def _tests_of(module: str) -> Path:
    path = Path(module)
    return ROOT / SHOWN_BY.get(module, f"tests/{path.parent}/test_{path.stem}.py")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_that_does_something_has_tests(package: str) -> None:
    assert _modules(package)
    assert [module for module in _modules(package) if not _tests_of(module).exists()] == []


def test_what_is_shown_elsewhere_has_no_tests_of_its_own_and_is_still_there() -> None:
    assert [module for module in SHOWN_BY if not _does_something(ROOT / module)] == []
    own = [f"tests/{Path(module).parent}/test_{Path(module).stem}.py" for module in SHOWN_BY]
    assert [path for path in own if (ROOT / path).exists()] == []
