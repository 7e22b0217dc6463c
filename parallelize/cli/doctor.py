"""What this machine can do, with versions, and what to install or change for the rest."""

from __future__ import annotations

import os
import platform

from rich.console import Console
from rich.markup import escape

from parallelize.backends.registry import backends
from parallelize.backends.tensorrt.library import gpu_capability
from parallelize.machine.findings import Finding, has_torch, looked_at, package_version
from parallelize.machine.gpu import cuda_version, driver_version, gpu_name


def examine() -> list[Finding]:
    """Look at everything that the commands use."""
    return [
        Finding("Python", True, f"{platform.python_version()}, {platform.platform()}", "everything"),
        Finding("processor", True, f"{os.cpu_count()} cores, {platform.machine()}", "latency on a CPU"),
        _package("PyTorch", "torch", "capture, rewriting, refits", "pip install torch"),
        _gpu(),
        _package("ONNX", "onnx", "export", "pip install onnx"),
        *(backend.finding() for backend in backends() if backend.enables),
        _package("Transformers", "transformers", "models of Hugging Face", "pip install transformers safetensors"),
        _package("timm", "timm", "models timm:NAME", "pip install timm"),
        _package("Matplotlib", "matplotlib", "charts", "pip install matplotlib"),
    ]


def _package(part: str, module: str, enables: str, advice: str) -> Finding:
    return looked_at(part, lambda: package_version(module), enables, advice)


def _gpu() -> Finding:
    enables = "engines that run here, latency on a GPU"
    if not has_torch():
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


def print_findings(findings: list[Finding], console: Console) -> None:
    """One line for each; below what does not work, what it is for and what to do about it."""
    width = max(len(finding.part) for finding in findings)
    for finding in findings:
        mark = "[green]yes[/green]" if finding.works else "[yellow]no [/yellow]"
        console.print(f"{mark} {finding.part:{width}} ", escape(finding.found), highlight=False)
        if not finding.works:
            advice = f"needed for {finding.enables}: {finding.advice}"
            console.print(" " * (width + 5) + escape(advice), style="yellow", highlight=False)
