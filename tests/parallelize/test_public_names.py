"""What `import parallelize` offers is there, and nothing is loaded before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import parallelize


@pytest.mark.parametrize("name", parallelize.__all__)
def test_every_public_name_is_found(name: str) -> None:
    assert getattr(parallelize, name) is not None


def test_the_words_of_the_commands_are_those_of_python() -> None:
    words = {
        "bench",
        "build",
        "compare",
        "convert",
        "draw",
        "heal",
        "inspect",
        "load",
        "plan",
        "refit",
        "rewrite",
        "run",
    }
    assert words <= set(parallelize.__all__)
    assert parallelize.plan is parallelize.explore


def test_another_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'unheard_of'"):
        parallelize.unheard_of  # noqa: B018


def test_the_package_alone_loads_no_torch() -> None:
    code = "import sys, parallelize, parallelize.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
