"""Threads wait asleep where the user has not said how, and what was said stays."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from parallelize.machine.waiting import ASLEEP, wait_asleep

_COMMAND = """
import os, sys
from parallelize.cli import main
loaded = []
main.app = lambda: loaded.append("torch" in sys.modules)
main.main()
print(*loaded, os.environ.get("OMP_WAIT_POLICY"), file=sys.stderr)
"""


def test_nothing_said_is_asleep() -> None:
    environment = {"HOME": "/root"}
    wait_asleep(environment)
    assert environment == {"HOME": "/root", **ASLEEP}


@pytest.mark.parametrize(
    "said",
    [{"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "100"}, {"KMP_BLOCKTIME": "200"}],
    ids=lambda said: [*said],
)
def test_what_the_user_said_stays(said: dict[str, str]) -> None:
    environment = dict(said)
    wait_asleep(environment)
    assert environment == said


@pytest.mark.parametrize(
    ("arguments", "policy"), [(("convert", "model.pt"), "PASSIVE"), (("bench", "a.onnx", "--threads", "2"), "None")]
)
def test_the_command_line_says_it_before_torch_is_loaded_but_where_threads_are_timed(
    arguments: tuple[str, ...], policy: str
) -> None:
    clean = {name: value for name, value in os.environ.items() if name not in ASLEEP}
    process = subprocess.run(
        [sys.executable, "-c", _COMMAND, *arguments], capture_output=True, text=True, env=clean, check=True
    )
    assert process.stderr.split() == ["False", policy]
