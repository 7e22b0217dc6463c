"""The files that take longest come first, so that no process is left with one of them in the end."""

from __future__ import annotations

import pytest

LONGEST = ("properties", "architectures", "parallelize/cli", "parallelize/conversion", "parallelize/backends")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the tests of the longest files to the front."""
    items.sort(key=lambda item: next((n for n, name in enumerate(LONGEST) if f"tests/{name}" in str(item.path)), 99))
