"""Which TensorRT there is, and what to install where there is none."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from passes.errors import EnvironmentLackError

TENSORRT = "tensorrt"
RTX = "tensorrt-rtx"
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
