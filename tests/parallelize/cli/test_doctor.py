"""doctor: everything is looked at, what is missing is told with what to do, and nothing that is missing breaks it."""

from __future__ import annotations

import io
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from parallelize.backends.tensorrt.library import INSTALL, RTX, TENSORRT
from parallelize.cli import doctor
from parallelize.cli.doctor import examine, print_findings
from parallelize.cli.main import app
from parallelize.machine import findings
from parallelize.machine.findings import Finding

PARTS = {
    "Python",
    "processor",
    "PyTorch",
    "GPU",
    "ONNX",
    "ONNX Runtime",
    "TensorRT for RTX",
    "TensorRT",
    "Transformers",
    "timm",
    "Matplotlib",
}
PACKAGES = {
    "PyTorch": ("torch", "pip install torch"),
    "ONNX": ("onnx", "pip install onnx"),
    "ONNX Runtime": ("onnxruntime", "pip install onnxruntime"),
    "TensorRT for RTX": ("tensorrt_rtx", INSTALL[RTX]),
    "TensorRT": ("tensorrt", INSTALL[TENSORRT]),
    "Transformers": ("transformers", "pip install transformers safetensors"),
    "timm": ("timm", "pip install timm"),
    "Matplotlib": ("matplotlib", "pip install matplotlib"),
}


def found() -> dict[str, Finding]:
    return {finding.part: finding for finding in examine()}


def test_everything_that_the_commands_use_is_looked_at() -> None:
    told = found()
    assert set(told) == PARTS
    assert told["PyTorch"].found == torch.__version__
    assert "CPU" in told["ONNX Runtime"].found
    assert all(bool(finding.advice) != finding.works for finding in told.values())


@pytest.mark.parametrize("part", PACKAGES)
def test_a_package_that_is_missing_is_told_with_the_command_to_install_it(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, advice = PACKAGES[part]
    monkeypatch.setitem(sys.modules, module, None)
    finding = found()[part]
    assert not finding.works
    assert module in finding.found
    assert finding.advice == advice


def test_a_machine_with_nothing_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, _ in PACKAGES.values():
        monkeypatch.setitem(sys.modules, module, None)
    told = CliRunner().invoke(app, ["doctor"])
    assert told.exit_code == 0, told.output
    working = {line.split()[1] for line in told.stdout.splitlines() if line.startswith("yes ")}
    assert working == {"Python", "processor"}
    assert "PyTorch does not tell, as it does not import" in told.stdout


def test_a_package_that_breaks_when_it_is_imported_is_told_with_its_first_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(name: str) -> SimpleNamespace:
        raise RuntimeError("built for another NumPy\nand more")

    monkeypatch.setattr(findings.importlib, "import_module", broken)
    finding = doctor._package("ONNX", "onnx", "export", "pip install onnx")
    assert (finding.works, finding.found) == (False, "built for another NumPy")


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
def test_what_needs_a_gpu_says_so_without_one() -> None:
    pytest.importorskip("tensorrt_rtx")
    told = found()
    assert not told["GPU"].works
    assert told["GPU"].advice
    rtx = told["TensorRT for RTX"]
    assert rtx.works
    assert "builds for 7.5, 8.0" in rtx.found
    assert "engines are built, not run, without a GPU" in rtx.found


@pytest.mark.parametrize(
    ("capability", "words"), [("8.9", "runs on this GPU"), ("9.0", "does not run on this GPU (9.0)")]
)
def test_a_gpu_is_told_and_whether_engines_run_on_it(
    capability: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: tuple(map(int, capability.split("."))))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA L4")
    told = found()
    assert told["GPU"].works
    assert f"NVIDIA L4, compute capability {capability}" in told["GPU"].found
    assert told["TensorRT for RTX"].found.endswith(words)


def test_a_library_that_is_too_old_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    old = SimpleNamespace(__version__="8.6.1", NetworkDefinitionCreationFlag=SimpleNamespace(EXPLICIT_BATCH=0))
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    finding = found()["TensorRT"]
    assert not finding.works
    assert "tensorrt 8.6.1 is too old" in finding.found


@pytest.mark.parametrize("part", ["TensorRT", "TensorRT for RTX"])
def test_a_library_that_breaks_when_it_is_imported_is_told_with_its_first_words(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> SimpleNamespace:
        raise RuntimeError("the driver is too old\nand more")

    for backend in ("tensorrt", "rtx"):
        monkeypatch.setattr(f"parallelize.backends.tensorrt.{backend}.find_library", broken)
    finding = found()[part]
    assert (finding.works, finding.found, finding.advice) == (False, "the driver is too old", PACKAGES[part][1])
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0


def test_the_json_is_what_was_found() -> None:
    told = CliRunner().invoke(app, ["doctor", "--json"])
    assert told.exit_code == 0, told.output
    content = {entry["part"]: entry for entry in json.loads(told.stdout)}
    assert set(content) == PARTS
    assert content["PyTorch"] == vars(found()["PyTorch"])


def test_a_line_says_yes_or_no_and_below_a_no_what_to_do() -> None:
    stream = io.StringIO()
    lines = [
        Finding("ONNX", True, "1.22.0 [x]", "export"),
        Finding("timm", False, "no module", "models timm:NAME", "pip install timm"),
    ]
    print_findings(lines, Console(width=80, file=stream))
    assert stream.getvalue().splitlines() == [
        "yes ONNX  1.22.0 [x]",
        "no  timm  no module",
        "         needed for models timm:NAME: pip install timm",
    ]
