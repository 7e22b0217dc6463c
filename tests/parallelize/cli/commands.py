"""What the tests of commands share: a working directory, the program in it, and how they are called."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from parallelize.cli.main import app

ROOT = Path(__file__).resolve().parents[3]
FACTORIES = """
from torch import nn


class Residual(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.terms = nn.ModuleList(nn.Sequential(nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, width)) for _ in range(4))

    def forward(self, x):
        for term in self.terms:
            x = x + term(x)
        return x


def residual():
    return Residual()


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x).relu()
"""
CONVERT = ("convert", "model.pt", "--inputs", "data.npz", "--depth", "1", "--rounds", "1", "-o", "out")
HEAL = ("heal", "model.pt", "--plan", "p.json", "--inputs", "data.npz", "-o", "out", "--rounds", "1", "--steps", "8")
PLAN = '{"format": "parallelize-plan/1", "stacks": [{"terms": 4, "refit": "none", "levels": [[[0], [2]], [[1], [3]]]}]}'
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def python(*code: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *code], env=ENVIRONMENT, text=True, capture_output=True, check=False, **options
    )


def started(*code: str) -> subprocess.Popen[str]:
    """A program that goes on while its error stream is read."""
    return subprocess.Popen(
        [sys.executable, *code], env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
