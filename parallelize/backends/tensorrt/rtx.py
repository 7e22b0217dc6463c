"""The backend `tensorrt-rtx`: it builds without a GPU, for the compute capabilities that it has kernels for."""

from __future__ import annotations

from dataclasses import dataclass

from parallelize.backends.tensorrt.backend import ENGINE, EngineBackend
from parallelize.backends.tensorrt.library import INSTALL, RTX, capabilities, find_library, gpu_capability
from parallelize.machine.findings import has_torch


@dataclass(frozen=True)
class TensorRTForRtx(EngineBackend):
    """TensorRT for RTX 1.7."""

    def found(self) -> str:
        """The version, what it builds for, and whether that runs here."""
        library = find_library(self.name)
        targets = capabilities(library)
        capability = gpu_capability() if has_torch() else None
        if capability is None:
            runs = "engines are built, not run, without a GPU"
        else:
            runs = "runs on this GPU" if capability in targets else f"does not run on this GPU ({capability})"
        return f"{library.version}, builds for {', '.join(targets)}; {runs}"

    def builds_here(self) -> str | None:
        """Wherever it is installed."""
        return "it builds without a GPU" if self.lack() is None else None

    def runs_here(self) -> str | None:
        """On a GPU that it has kernels for."""
        capability = gpu_capability()
        if capability is None or self.lack() is not None or capability not in capabilities(find_library(self.name)):
            return None
        return "there is a GPU that TensorRT for RTX knows"


RTX_BACKEND = TensorRTForRtx(
    RTX,
    "TensorRT for RTX",
    (ENGINE,),
    install=INSTALL[RTX],
    enables="engines built without a GPU",
)
