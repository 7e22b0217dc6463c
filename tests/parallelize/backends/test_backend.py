"""What every backend has without saying so, and what doctor says of it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from parallelize.backends.backend import ONNX, PROGRAM, Backend, FileKind
from parallelize.backends.torch.backend import TORCH
from parallelize.machine.findings import Finding
from tests.parallelize.backends.toy import NUMBER, TOY


def test_a_backend_lacks_nothing_and_owns_no_file_unless_it_says_so() -> None:
    assert TOY.lack() is None
    assert not TOY.owns(Path("two.toy"))
    assert (TORCH.enables, TORCH.hides) == ("", "")


def test_doctor_tells_the_version_or_how_to_install_what_is_broken() -> None:
    @dataclass(frozen=True)
    class Broken(type(TOY)):  # type: ignore[misc]
        def found(self) -> str:
            raise OSError("no fingers.so\nand more")

    broken = Broken("toy", "Toy", (NUMBER,), install="grow some", enables="counting")
    assert broken.finding() == Finding("Toy", False, "no fingers.so", "counting", "grow some")
    assert TOY.finding().works


def test_a_backend_must_say_what_it_found_and_how_it_opens() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Backend("toy", "Toy", (NUMBER,))  # type: ignore[abstract]


def test_kinds_of_files_have_their_names_in_a_directory_of_a_conversion() -> None:
    assert (PROGRAM.product, ONNX.product, FileKind("n", "a number", ".toy").product) == (
        "model.pt2",
        "model.onnx",
        "model.toy",
    )


def test_describing_backends_imports_no_library() -> None:
    code = (
        "import sys, parallelize.backends.registry as r; [b.name for b in r.backends()];"
        "sys.exit(any(n in sys.modules for n in ('torch', 'onnxruntime', 'tensorrt', 'tensorrt_rtx')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
