"""What a conversion tells of precision and engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from parallelize.backends.tensorrt.choices import Precision as EnginePrecision
from parallelize.backends.tensorrt.layers import Layer, critical_layers, kernels, streams
from parallelize.export.precision import KeptInFp32, PrecisionRecord
from parallelize.machine.latency import Latency
from passes.precision.cast_precision import Precision


@dataclass(frozen=True)
class CastError:
    """A way to cast, and its error against the program before; None where that is no number."""

    kept_in_fp32: KeptInFp32
    error: float | None


@dataclass(frozen=True)
class PrecisionResult:
    """What was cast; see `parallelize.export.precision.PrecisionRecord`.

    Attributes:
        dtype: of the model that was exported.
        kept_in_fp32: None where nothing was cast.
        kept_for_range: names of nodes that stay in fp32 because a sample leaves the range there.
        out_of_range: what left it, in words.
        metric: what the errors are.
        errors: of every way that was tried.
    """

    dtype: Precision
    kept_in_fp32: KeptInFp32 | None
    kept_for_range: tuple[str, ...]
    out_of_range: str | None
    metric: str | None
    errors: tuple[CastError, ...]

    @staticmethod
    def of(record: PrecisionRecord) -> PrecisionResult:
        """From what a cast recorded."""
        errors = tuple(CastError(kept, error if isfinite(error) else None) for kept, error in record.errors)
        out_of_range, metric = record.why or None, record.metric or None
        return PrecisionResult(record.dtype, record.kept, record.wide, out_of_range, metric, errors)

    @property
    def error(self) -> float | None:
        """Of the way that was taken; None where it was not measured."""
        return next((tried.error for tried in self.errors if tried.kept_in_fp32 == self.kept_in_fp32), None)


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
        latency_ms: on the GPU's machine, host time, by name; empty where no GPU ran them.
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
