"""The help of every command: quick, and whole."""

from __future__ import annotations

import typer

from parallelize.cli.main import app
from tests.parallelize.cli.commands import python, run

COMMANDS = (
    "convert",
    "plan",
    "heal",
    "build",
    "doctor",
    "inspect",
    "draw",
    "passes",
    "train",
    "run",
    "compare",
    "bench",
    "profile-gpu",
)
HEAVY = {
    "torch",
    "onnx",
    "onnxruntime",
    "numpy",
    "matplotlib",
    "networkx",
    "tensorrt",
    "tensorrt_rtx",
    "transformers",
}


def test_the_help_of_every_command_is_looked_at() -> None:
    assert set(COMMANDS) == set(typer.main.get_group(app).commands)


def test_help_imports_no_heavy_library() -> None:
    calls = [["--help"], *([name, "--help"] for name in COMMANDS)]
    code = (
        "import sys; from typer.testing import CliRunner; from parallelize.cli.main import app;"
        f"assert all(CliRunner().invoke(app, call).exit_code == 0 for call in {calls!r});"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    assert python("-c", code).stdout == "[]\n"


def test_the_help_names_every_metric() -> None:
    from parallelize.metrics import known_metrics

    told = " ".join(run("convert", "--help").stdout.replace("│", " ").split())
    assert all(f" {name}" in told for name in known_metrics())
