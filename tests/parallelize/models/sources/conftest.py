"""A current directory with factories in it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parallelize.models.sources.cases import FACTORY


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current directory with a file of factories in it."""
    (tmp_path / "shop.py").write_text(FACTORY)
    (tmp_path / "beside.py").write_text("WIDTH = 8\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("shop", "beside", "crash", "leave"):
        sys.modules.pop(name, None)
