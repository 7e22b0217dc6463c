"""The backend `tensorrt`: it builds on a GPU, for that GPU."""

from __future__ import annotations

from dataclasses import dataclass

from parallelize.backends.tensorrt.backend import ENGINE, EngineBackend
from parallelize.backends.tensorrt.library import INSTALL, TENSORRT, find_library, gpu_capability
from parallelize.machine.findings import has_torch


@dataclass(frozen=True)
class TensorRT(EngineBackend):
    """TensorRT 10.12 and later, and 11."""

    def found(self) -> str:
        """The version."""
        gpu = has_torch() and gpu_capability() is not None
        return f"{find_library(self.name).version}{'' if gpu else '; builds nothing without a GPU'}"

    def builds_here(self) -> str | None:
        """On a GPU."""
        there = gpu_capability() is not None and self.lack() is None
        return "there is a GPU and TensorRT is installed" if there else None

    def runs_here(self) -> str | None:
        """What it builds, it runs."""
        return self.builds_here()


TENSORRT_BACKEND = TensorRT(
    TENSORRT,
    "TensorRT",
    (ENGINE,),
    install=INSTALL[TENSORRT],
    enables="engines for the GPU of this machine",
    needs_gpu=True,
)
