"""Which backend a conversion or a build takes: the one that was asked for, or what suits this machine, with the reason.

    auto, convert       a backend that builds engines which run here, else ONNX Runtime and no engine
    auto, build         a backend that builds engines here

Of several, the one that builds for the GPU that is here is preferred to one that builds for many.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from parallelize.backends.backend import Backend
from parallelize.backends.onnxruntime.backend import ONNXRUNTIME
from parallelize.backends.registry import backends
from parallelize.backends.tensorrt.backend import EngineBackend
from passes.errors import EnvironmentLackError, ParallelizeError

AUTO = "auto"
B_co = TypeVar("B_co", bound=Backend, covariant=True)
_ASKED = "it was asked for"


@dataclass(frozen=True)
class Choice(Generic[B_co]):
    """A backend that was taken, and why."""

    backend: B_co
    why: str

    @property
    def builder(self) -> EngineBackend | None:
        """The backend where it builds an engine."""
        return self.backend if isinstance(self.backend, EngineBackend) else None


def builders() -> tuple[EngineBackend, ...]:
    """The backends that build engines, those that do so anywhere first."""
    found = (backend for backend in backends() if isinstance(backend, EngineBackend))
    return tuple(sorted(found, key=lambda builder: builder.needs_gpu))


def choices() -> tuple[str, ...]:
    """What --backend takes."""
    return (AUTO, ONNXRUNTIME.name, *(builder.name for builder in builders()))


def where_built() -> str:
    """Which backends build an engine without a GPU and which on one, for help texts."""
    return ", ".join(f"{b.name} {'on one' if b.needs_gpu else 'builds without a GPU'}" for b in builders())


def choose_backend(wanted: str) -> Choice[Backend]:
    """The backend that a conversion takes.

    Raises:
        ParallelizeError: an unknown backend.
        EnvironmentLackError: the backend that was asked for is not installed.
    """
    if wanted == AUTO:
        return _chosen((builder, builder.runs_here()) for builder in reversed(builders())) or _without_engine()
    if wanted == ONNXRUNTIME.name:
        return Choice(ONNXRUNTIME, _ASKED)
    return _asked_for(wanted)


def choose_engine_backend(wanted: str) -> Choice[EngineBackend]:
    """The backend that builds an engine.

    Raises:
        ParallelizeError: a backend that builds no engines.
        EnvironmentLackError: none is installed, or not the one that was asked for.
    """
    if wanted == ONNXRUNTIME.name:
        raise ParallelizeError(
            f"The backend {wanted} builds no engines.", f"Use {' or '.join(builder.name for builder in builders())}."
        )
    if wanted != AUTO:
        return _asked_for(wanted)
    found = _chosen((builder, builder.builds_here()) for builder in reversed(builders()))
    if found is not None:
        return found
    ways = (f"{b.install} ({'needs one' if b.needs_gpu else 'builds without a GPU'})" for b in builders())
    raise EnvironmentLackError("No TensorRT is installed.", ", or ".join(ways))


def _asked_for(name: str) -> Choice[EngineBackend]:
    found = next((builder for builder in builders() if builder.name == name), None)
    if found is None:
        raise ParallelizeError(f"There is no backend {name!r}.", f"The backends are {', '.join(choices())}.")
    lack = found.lack()
    if lack is not None:
        raise lack
    return Choice(found, _ASKED)


def _chosen(reasons: Iterable[tuple[EngineBackend, str | None]]) -> Choice[EngineBackend] | None:
    """The first that there is a reason for."""
    return next((Choice(builder, why) for builder, why in reasons if why is not None), None)


def _without_engine() -> Choice[Backend]:
    """ONNX Runtime, and what an engine would need."""
    import torch

    if torch.cuda.is_available():
        advice = next(builder.install for builder in builders() if builder.needs_gpu)
        return Choice(ONNXRUNTIME, f"no TensorRT for this GPU is installed ({advice})")
    anywhere = next(builder.name for builder in builders() if not builder.needs_gpu)
    return Choice(ONNXRUNTIME, f"there is no CUDA GPU here (an engine can be built all the same: --backend {anywhere})")
