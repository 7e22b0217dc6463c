"""What a conversion tells of what it built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parallelize.backends.tensorrt.choices import Precision as EnginePrecision
from parallelize.backends.tensorrt.layers import Layer, critical_layers, kernels, streams
from parallelize.export.precision_result import PrecisionResult
from parallelize.machine.latency import Latency


@dataclass(frozen=True)
class Counts:
    """Layers of an engine: all kernels, the most that wait for each other, streams."""

    kernels: int
    critical: int
    streams: int

    @classmethod
    def of(cls, layers: Sequence[Layer]) -> Counts:
        """Counted on the layers of a sidecar."""
        return cls(kernels(layers), critical_layers(layers), streams(layers))


@dataclass(frozen=True)
class EngineResult:
    """An engine.

    Attributes:
        library: with its version.
        targets: compute capabilities that it was built for.
        precision: that it computes in.
        profiles: the shapes that it takes.
        build_seconds: how long the build took.
        layers: of the engines of the serial network and of the rewrite, by name.
        layers_from: who told of them.
        errors: by what they compare.
        latency_ms: until the result is there, by name, as `bench` times a GPU; empty where no GPU ran them.
        not_run: why the engine was not run here.
    """

    library: str
    targets: tuple[str, ...]
    precision: EnginePrecision | None
    profiles: tuple[str, ...]
    build_seconds: float
    layers: Mapping[str, Counts]
    layers_from: str
    errors: Mapping[str, float]
    latency_ms: Mapping[str, Latency]
    not_run: str | None


@dataclass(frozen=True)
class BackendResult:
    """What was built.

    Attributes:
        backend: that was taken.
        why: that one.
        precision: what was cast.
        onnx_against_graph: error of model.onnx, None where ONNX Runtime does not run it.
        onnx_not_run: why not.
        engine: None where none was asked for.
    """

    backend: str
    why: str
    precision: PrecisionResult
    onnx_against_graph: float | None
    onnx_not_run: str | None
    engine: EngineResult | None
