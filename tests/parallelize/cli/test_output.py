"""Standard output is for what a command says: whatever else prints goes to the error stream."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import parallelize

NOISY = """
import atexit, ctypes, logging, os, subprocess, sys, threading
from torch import nn

logging.basicConfig(stream=sys.stdout, level=logging.INFO)
atexit.register(print, "noise at exit")

def noise(where):
    print("noise of print", where)
    sys.stdout.write("noise written\\n")
    sys.__stdout__.write("noise of the interpreter's own stream\\n")
    os.write(1, b"noise of a descriptor\\n")
    os.system("echo noise of a shell")
    subprocess.run([sys.executable, "-c", "print('noise of a process')"])
    ctypes.CDLL(None).puts(b"noise of C")
    logging.info("noise of a log")
    thread = threading.Thread(target=print, args=("noise of a thread",))
    thread.start(), thread.join()

noise("at import")

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        noise("in the constructor")
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        noise("in forward")
        return x + self.layer(x)
"""


@pytest.mark.parametrize("command", [["inspect"], pytest.param(["compare", "--json", "-"], marks=pytest.mark.slow)])
def test_json_is_pure_whatever_a_model_prints(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    named = ["noisy.py:Model"] if command == ["inspect"] else ["noisy.py:Model", "noisy.py:Model"]
    flags = ["--json"] if command == ["inspect"] else []
    run = subprocess.run(
        [sys.executable, "-m", "parallelize", *command, *flags, *named, "--input", "x:batchx4"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(parallelize.__file__).parents[1]), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(run.stdout)
    for noise in ("print in forward", "a descriptor", "a shell", "a process", "C", "a log", "a thread"):
        assert f"noise of {noise}" in run.stderr
    assert "noise at exit" in run.stderr


@pytest.mark.slow
def test_a_reader_that_leaves_early_ends_a_command_without_a_traceback(tmp_path: Path) -> None:
    shell = f"set -o pipefail; {sys.executable} -m parallelize passes | head -1"
    run = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert "Traceback" not in run.stderr
    assert "Exception ignored" not in run.stderr
