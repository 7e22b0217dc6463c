"""Which TensorRT there is, and what to install where there is none."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from passes.errors import EnvironmentLackError, ParallelizeError

TENSORRT = "tensorrt"
RTX = "tensorrt-rtx"
ONNXRUNTIME = "onnxruntime"
AUTO = "auto"
BACKENDS = (AUTO, ONNXRUNTIME, RTX, TENSORRT)
INSTALL = {TENSORRT: 'pip install "tensorrt>=10.12"', RTX: "pip install tensorrt-rtx==1.7.1.116"}
_MODULES = {TENSORRT: "tensorrt", RTX: "tensorrt_rtx"}


@dataclass(frozen=True)
class Library:
    """An imported TensorRT.

    Attributes:
        backend: "tensorrt" or "tensorrt-rtx".
        module: the Python module.
    """

    backend: str
    module: Any

    @property
    def version(self) -> str:
        """As the library states it."""
        return str(self.module.__version__)

    @property
    def title(self) -> str:
        """Name and version, for sentences."""
        return f"{'TensorRT for RTX' if self.backend == RTX else 'TensorRT'} {self.version}"

    @property
    def names_targets(self) -> bool:
        """Whether engines are built for named compute capabilities, without a GPU and without a timing cache."""
        return hasattr(self.module, "ComputeCapability")


def find_library(backend: str) -> Library:
    """Import the library of a backend.

    Raises:
        EnvironmentLackError: it is not installed, does not load, or is older than strongly typed networks.
    """
    try:
        module = importlib.import_module(_MODULES[backend])
    except (ImportError, OSError) as error:
        raise EnvironmentLackError(
            f"The backend {backend} needs the package {_MODULES[backend]}, which does not import here"
            f" ({' '.join(str(error).split()) or type(error).__name__}).",
            INSTALL[backend],
        ) from error
    if not hasattr(module, "NetworkDefinitionCreationFlag"):  # an empty folder of that name imports too
        raise EnvironmentLackError(
            f"The package {_MODULES[backend]} that imports here is no TensorRT.", INSTALL[backend]
        )
    if not hasattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        raise EnvironmentLackError(
            f"{backend} {module.__version__} is too old: it has no strongly typed networks.", INSTALL[backend]
        )
    return Library(backend, module)


def is_installed(backend: str) -> bool:
    """Whether the library of a backend imports here."""
    try:
        find_library(backend)
    except EnvironmentLackError:
        return False
    return True


def choose_backend(wanted: str) -> tuple[str, str]:
    """The backend that is taken, and why.

    "auto" takes what runs here: TensorRT, else TensorRT for RTX, where there is a GPU for it; else ONNX Runtime.

    Raises:
        ParallelizeError: an unknown backend.
        EnvironmentLackError: the backend that was asked for is not installed.
    """
    if wanted not in BACKENDS:
        raise ParallelizeError(f"There is no backend {wanted!r}.", f"The backends are {', '.join(BACKENDS)}.")
    if wanted == ONNXRUNTIME:
        return wanted, "it was asked for"
    if wanted != AUTO:
        find_library(wanted)
        return wanted, "it was asked for"
    import torch

    if not torch.cuda.is_available():
        return ONNXRUNTIME, "there is no CUDA GPU here (an engine can be built all the same: --backend tensorrt-rtx)"
    if is_installed(TENSORRT):
        return TENSORRT, "there is a GPU and TensorRT is installed"
    if is_installed(RTX) and gpu_capability() in capabilities(find_library(RTX)):
        return RTX, "there is a GPU that TensorRT for RTX knows"
    return ONNXRUNTIME, f"no TensorRT for this GPU is installed ({INSTALL[TENSORRT]})"


def choose_engine_backend(wanted: str) -> tuple[str, str]:
    """As `choose_backend`, of those that build engines; "auto" takes TensorRT where there is a GPU, else the other.

    Raises:
        ParallelizeError: a backend that builds no engines.
        EnvironmentLackError: none is installed, or not the one that was asked for.
    """
    if wanted == ONNXRUNTIME:
        raise ParallelizeError(f"The backend {ONNXRUNTIME} builds no engines.", f"Use {RTX} or {TENSORRT}.")
    if wanted != AUTO:
        return choose_backend(wanted)
    if gpu_capability() is not None and is_installed(TENSORRT):
        return TENSORRT, "there is a GPU and TensorRT is installed"
    if is_installed(RTX):
        return RTX, "it builds without a GPU"
    raise EnvironmentLackError(
        "No TensorRT is installed.", f"{INSTALL[RTX]} (builds without a GPU), or {INSTALL[TENSORRT]} (needs one)"
    )


def capabilities(library: Library) -> tuple[str, ...]:
    """Compute capabilities that the library can build for by name, such as "8.9"; none where it builds for this GPU."""
    if not library.names_targets:
        return ()
    names = [name for name in library.module.ComputeCapability.__members__ if name.startswith("SM")]
    return tuple(f"{name[2:-1]}.{name[-1]}" for name in sorted(names, key=lambda name: int(name[2:])))


def gpu_capability() -> str | None:
    """Compute capability of this machine's GPU, such as "9.0", or None."""
    import torch

    if not torch.cuda.is_available():
        return None
    return ".".join(map(str, torch.cuda.get_device_capability()))
