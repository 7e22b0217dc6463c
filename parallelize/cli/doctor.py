"""What this machine can do, with versions, and what to install or change for the rest."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape

from parallelize.backends.tensorrt.library import INSTALL, RTX, TENSORRT, capabilities, find_library, gpu_capability
from parallelize.machine.gpu import cuda_version, driver_version, gpu_name


@dataclass(frozen=True)
class Finding:
    """One thing that a machine can or cannot do.

    Attributes:
        part: what was looked at.
        works: whether it can be used.
        found: versions, or what is missing.
        enables: what it is for.
        advice: what to do where it does not work; empty where it does.
    """

    part: str
    works: bool
    found: str
    enables: str
    advice: str = ""


def examine() -> list[Finding]:
    """Look at everything that the commands use."""
    return [
        Finding("Python", True, f"{platform.python_version()}, {platform.platform()}", "everything"),
        Finding("processor", True, f"{os.cpu_count()} cores, {platform.machine()}", "latency on a CPU"),
        _package("PyTorch", "torch", "capture, rewriting, refits", "pip install torch"),
        _gpu(),
        _package("ONNX", "onnx", "export", "pip install onnx"),
        _onnxruntime(),
        _rtx(),
        _tensorrt(),
        _package("Transformers", "transformers", "models of Hugging Face", "pip install transformers safetensors"),
        _package("timm", "timm", "models timm:NAME", "pip install timm"),
        _package("Matplotlib", "matplotlib", "charts", "pip install matplotlib"),
    ]


def _package(part: str, module: str, enables: str, advice: str) -> Finding:
    try:
        version = str(importlib.import_module(module).__version__)
    except Exception as error:  # noqa: BLE001  (a broken package raises anything, and doctor is to say so)
        return Finding(part, False, _first_line(error), enables, advice)
    return Finding(part, True, version, enables)


def _gpu() -> Finding:
    enables = "engines that run here, latency on a GPU"
    if not _has_torch():
        return Finding("GPU", False, "PyTorch does not tell, as it does not import", enables, "pip install torch")
    capability = gpu_capability()
    if capability is not None:
        versions = f"CUDA {cuda_version()}, driver {driver_version() or 'unknown'}"
        return Finding("GPU", True, f"{gpu_name()}, compute capability {capability}, {versions}", enables)
    if cuda_version() is None:
        found, advice = "this build of PyTorch has no CUDA", "install a CUDA build of PyTorch on a machine with a GPU"
    else:
        found, advice = "PyTorch finds no CUDA GPU", "check nvidia-smi and the driver"
    return Finding("GPU", False, found, enables, advice)


def _onnxruntime() -> Finding:
    enables = "checks and latency of ONNX files"
    finding = _package("ONNX Runtime", "onnxruntime", enables, "pip install onnxruntime")
    if not finding.works:
        return finding
    names = [name.removesuffix("ExecutionProvider") for name in sys.modules["onnxruntime"].get_available_providers()]
    return Finding("ONNX Runtime", True, f"{finding.found} ({', '.join(names)})", enables)


def _rtx() -> Finding:
    def describe() -> str:
        library = find_library(RTX)
        targets = capabilities(library)
        capability = _capability()
        if capability is None:
            runs = "engines are built, not run, without a GPU"
        else:
            runs = "runs on this GPU" if capability in targets else f"does not run on this GPU ({capability})"
        return f"{library.version}, builds for {', '.join(targets)}; {runs}"

    return _library("TensorRT for RTX", RTX, "engines built without a GPU", describe)


def _tensorrt() -> Finding:
    def describe() -> str:
        library = find_library(TENSORRT)
        return f"{library.version}{'' if _capability() else '; builds nothing without a GPU'}"

    return _library("TensorRT", TENSORRT, "engines for the GPU of this machine", describe)


def _library(part: str, backend: str, enables: str, describe: Callable[[], str]) -> Finding:
    try:
        return Finding(part, True, describe(), enables)
    except Exception as error:  # noqa: BLE001  (a broken library raises anything, and doctor is to say so)
        return Finding(part, False, _first_line(error), enables, INSTALL[backend])


def _has_torch() -> bool:
    return _package("PyTorch", "torch", "", "").works


def _capability() -> str | None:
    return gpu_capability() if _has_torch() else None


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def print_findings(findings: list[Finding], console: Console) -> None:
    """One line for each; below what does not work, what it is for and what to do about it."""
    width = max(len(finding.part) for finding in findings)
    for finding in findings:
        mark = "[green]yes[/green]" if finding.works else "[yellow]no [/yellow]"
        console.print(f"{mark} {finding.part:{width}} ", escape(finding.found), highlight=False)
        if not finding.works:
            advice = f"needed for {finding.enables}: {finding.advice}"
            console.print(" " * (width + 5) + escape(advice), style="yellow", highlight=False)
