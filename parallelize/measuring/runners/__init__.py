"""Runners: one way to feed a network and to time it, whatever runs it.

    torch            a captured program, eagerly, on the CPU or a GPU
    torch-compile    the same through torch.compile
    onnxruntime      an .onnx, or a program written as one, on the CPU
    onnxruntime-cuda the same on a GPU
    tensorrt         an .engine in the library that it was built with
    tensorrt-rtx     the same, spelled for engines of TensorRT for RTX

Each is one file, imported when it is asked for.
"""

from __future__ import annotations

from parallelize.measuring.runners.artefact import RUNNERS, Artefact, RunnerOptions, parse_artefact
from parallelize.measuring.runners.opening import opened
from parallelize.measuring.runners.runner import Runner

__all__ = ["RUNNERS", "Artefact", "Runner", "RunnerOptions", "opened", "parse_artefact"]
