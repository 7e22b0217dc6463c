"""The engine of a conversion: cast, exported, built, checked, counted; run and timed where there is a GPU for it.

    product (fp32) -> cast -> model.onnx -> engine;  serial (fp32) -> cast -> onnx -> engine, for the count of layers

The ONNX file that an engine is built from is compared in ONNX Runtime with the graph that it was written from, where
that has kernels for the precision. What could not be checked on this machine is said, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from parallelize.backends.onnxruntime import OnnxRuntime
from parallelize.backends.tensorrt.build import build, require
from parallelize.backends.tensorrt.engine import Engine
from parallelize.backends.tensorrt.library import AUTO, ONNXRUNTIME, choose_backend
from parallelize.backends.tensorrt.options import BuildOptions, Precision
from parallelize.backends.tensorrt.profiles import BATCH, Shape, ShapeOptions, choose_profiles
from parallelize.backends.tensorrt.sidecar import Sidecar, sidecar_path
from parallelize.conversion.engine_result import BackendResult, Counts, EngineResult, PrecisionResult
from parallelize.data import Samples
from parallelize.data.padding import real_outputs
from parallelize.data.tensor_spec import TensorSpec
from parallelize.export.onnx import write_onnx
from parallelize.export.precision import PrecisionRecord, cast
from parallelize.machine.latency import Latency, in_turn
from parallelize.models.program import Program
from parallelize.terminal.progress import Report
from passes.errors import CheckError, EnvironmentLackError, ParallelizeError
from passes.graph.agreement import change
from passes.graph.dataflow import tensor_value
from passes.graph.operators import gemms
from passes.graph.outputs import flat_outputs
from passes.precision.cast_precision import Precision as CastPrecisionName

ENGINE = "model.engine"
SAMPLES = 64  # on which the islands of a cast are chosen
HALF: dict[str, CastPrecisionName] = {"fp16": "fp16", "bf16": "bf16"}
_HALF_DTYPES = (torch.float16, torch.bfloat16)
_NO_KERNEL = "NOT_IMPLEMENTED"  # in the words of ONNX Runtime
# Of the largest output: other kernels add in another order, and a product of TensorFloat-32 keeps ten bits.
TOLERANCE = {"fp32": 1e-3, "tf32": 1e-2, "fp16": 2e-2, "bf16": 1e-1}


@dataclass(frozen=True)
class EngineOptions:
    """What a conversion builds beside the ONNX file.

    Attributes:
        backend: "auto", "onnxruntime" for no engine, "tensorrt-rtx" or "tensorrt".
        precision: of the model that is exported; inputs and outputs keep their dtypes. None is that of the model.
        build: how the engine is built; its precision is the one above.
    """

    backend: str = AUTO
    precision: Precision | None = None
    build: BuildOptions = field(default_factory=BuildOptions)

    @property
    def computes_in(self) -> Precision:
        """The precision; fp32 where none was given."""
        return self.precision or "fp32"

    def of_model(self, precision: Precision) -> EngineOptions:
        """The options for a model that computes in this precision."""
        return replace(self, precision=self.precision or precision)


@dataclass(frozen=True)
class Built:
    """What a conversion tells of precision and engine.

    Attributes:
        backend: the backend that was taken.
        why: why that one.
        precision: what was cast, with measured errors.
        onnx_error: the ONNX file against the graph it was written from, or None where ONNX Runtime does not run it.
        onnx_skipped: why not.
        sidecar: of the engine of the rewrite, or None where none was asked for.
        counts: layers of the engines of the serial network and of the rewrite, by name.
        latencies: milliseconds on the GPU's machine, host time, by name; empty where no GPU ran them.
        not_run: why the engine was not run here.
    """

    backend: str
    why: str
    precision: PrecisionRecord
    onnx_error: float | None = None
    onnx_skipped: str | None = None
    sidecar: Sidecar | None = None
    counts: Mapping[str, Counts] = field(default_factory=dict)
    latencies: Mapping[str, Latency] = field(default_factory=dict)
    not_run: str | None = None

    def result(self) -> BackendResult:
        """For the result of the conversion."""
        precision = PrecisionResult.of(self.precision)
        engine = None if self.sidecar is None else self._engine(self.sidecar)
        return BackendResult(self.backend, self.why, precision, self.onnx_error, self.onnx_skipped, engine)

    def _engine(self, sidecar: Sidecar) -> EngineResult:
        return EngineResult(
            library=f"{sidecar.backend} {sidecar.version}",
            targets=sidecar.targets,
            precision=sidecar.precision,
            profiles=tuple(map(str, sidecar.profiles)),
            build_seconds=sidecar.build_seconds,
            layers=self.counts,
            layers_from=sidecar.layers_from,
            errors=sidecar.errors,
            latency_ms=self.latencies,
            not_run=self.not_run,
        )


def settle(options: EngineOptions) -> tuple[str, str]:
    """The backend and why, before anything takes time.

    Raises:
        EnvironmentLackError: the library that was asked for is not installed, or needs a GPU that is not here.
        ParallelizeError: an option that is for engines only, without one, or one that the library does not have.
    """
    backend, why = choose_backend(options.backend)
    if backend != ONNXRUNTIME:
        require(backend, options.build)
        return backend, why
    hint = "Add --backend tensorrt-rtx or --backend tensorrt, or leave {} out."
    if options.build != BuildOptions():
        raise ParallelizeError(
            f"Shapes and other options of an engine were given, but the backend is {ONNXRUNTIME}: {why}.",
            hint.format("them"),
        )
    if options.computes_in == "tf32":
        raise ParallelizeError(
            f"tf32 is how an engine computes, not how a model is stored, but the backend is {ONNXRUNTIME}: {why}.",
            hint.format("it"),
        )
    return backend, why


def check_shapes(program: Program, options: EngineOptions) -> None:
    """Refuse shapes that do not fit the model's inputs, which a rewrite leaves as they are.

    Raises:
        ParallelizeError: naming the shape.
    """
    if options.build.shapes != ShapeOptions():
        choose_profiles(program.inputs, options.build.shapes)


def check_precision(program: Program, options: EngineOptions, backend: str) -> None:
    """Refuse an engine in fp32 of a model that computes in half precision, before the search.

    Raises:
        ParallelizeError: naming the dtype.
    """
    if backend == ONNXRUNTIME or options.computes_in in HALF:
        return
    for node in program.module.graph.nodes:
        value = tensor_value(node)
        if gemms(node) and value is not None and value.dtype in _HALF_DTYPES:
            spelled = "bf16" if value.dtype == torch.bfloat16 else "fp16"
            raise ParallelizeError(
                f"{program.origin} computes in {spelled} already, so its engine cannot be {options.computes_in}.",
                f"Use --precision {spelled}, or --backend onnxruntime for no engine.",
            )


def write_product(
    product: Program,
    serial: Program,
    directory: Path,
    options: EngineOptions,
    backend: tuple[str, str],
    samples: Samples,
    judge: Samples,
    onnx_error: float,
    plan: Mapping[str, Any],
    report: Report,
    every: Sequence[Samples] = (),
) -> Built:
    """Write model.onnx anew where another precision than fp32 was asked for, and the engine where one was.

    Args:
        product: the rewritten and fused model.
        serial: the model as captured, for the count of its engine's layers.
        directory: where the files go, with model.onnx in fp32; scratch files are removed again.
        options: backend, precision and how to build.
        backend: what `settle` gave.
        samples: choose what stays in fp32.
        judge: samples on which outputs are compared.
        onnx_error: of model.onnx in fp32 against the graph of `product`.
        plan: for the sidecar.
        report: told what is being done.
        every: all samples there are, none of which may leave the range of the precision; without it those above.

    Raises:
        CheckError: the ONNX file or the engine does not compute what the graph computes, or half precision cannot.
        ParallelizeError: as `build`.
    """
    name, why = backend
    made, record = _cast(product, options.computes_in, samples, every or (samples, judge), report)
    result = Built(name, why, record, onnx_error)
    if made is not product:
        error, skipped = _write_cast(made, directory, judge, TOLERANCE[options.computes_in])
        result = replace(result, onnx_error=error, onnx_skipped=skipped)
    if name == ONNXRUNTIME:
        return result
    shapes = options.build.shapes if options.build.shapes != ShapeOptions() else _shapes(product, judge)
    building = replace(options.build, precision=options.computes_in, shapes=shapes)
    errors = _errors(record, result.onnx_error)
    sidecar = build(
        directory / "model.onnx", directory / ENGINE, name, building, plan=plan, errors=errors, report=report
    )
    twin = directory / "serial.engine"
    other = _build_twin(serial, twin, name, building, record, report)
    counts = {"serial": Counts.of(other.layers), "rewrite": Counts.of(sidecar.layers)}
    result = replace(result, sidecar=sidecar, counts=counts)
    result = _run(result, made, directory / ENGINE, twin, judge, options.computes_in, report)
    for path in directory.glob("serial.*"):
        path.unlink()
    return result


def _cast(
    program: Program, precision: Precision, samples: Samples, every: Sequence[Samples], report: Report
) -> tuple[Program, PrecisionRecord]:
    """Cast for fp16 and bf16; the program itself for the others.

    Raises:
        CheckError: the outputs of every candidate are infinite or no numbers.
    """
    if precision not in HALF:
        return cast(program, "fp32")
    report(f"casting to {precision}", None)
    made, record = cast(program, HALF[precision], samples.head(SAMPLES), every=every)
    if record.errors and not isfinite(min(error for _, error in record.errors)):
        raise CheckError(
            f"The outputs of {program.origin} are infinite or no numbers in {precision}, whatever stays in fp32.",
            "Use --precision bf16, which has the range of fp32, or fp32.",
        )
    return made, record


def _write_cast(made: Program, directory: Path, judge: Samples, tolerance: float) -> tuple[float | None, str | None]:
    """Write the cast program in the place of model.onnx: its error against its graph, or why there is none."""
    for path in directory.glob("model.onnx*"):  # with weights beside it, which a smaller file has inside
        path.unlink()
    write_onnx(made, directory / "model.onnx")
    return _check_onnx(made, directory / "model.onnx", judge, tolerance)


def _build_twin(
    serial: Program, path: Path, backend: str, options: BuildOptions, record: PrecisionRecord, report: Report
) -> Sidecar:
    """The engine of the serial network, with the islands of the rewrite."""
    report("building the engine of the serial network, to count its layers", None)
    onnx = path.with_suffix(".onnx")
    is_cast = record.kept is not None and record.dtype in HALF
    write_onnx(cast(serial, record.dtype, None, [record.kept])[0] if is_cast and record.kept else serial, onnx)
    return build(onnx, path, backend, options, report=report)


def _errors(record: PrecisionRecord, onnx_error: float | None) -> dict[str, float]:
    """What is known of the model before the engine is built."""
    found = {}
    chosen = [error for kept, error in record.errors if kept == record.kept]
    if chosen:
        found[f"cast against fp32 ({record.metric})"] = chosen[0]
    if onnx_error is not None:
        found["onnx against graph"] = onnx_error
    return found


def _check_onnx(program: Program, path: Path, judge: Samples, tolerance: float) -> tuple[float | None, str | None]:
    batch = judge.batch(32)
    try:
        outputs = OnnxRuntime(path, 1)(batch)
    except Exception as error:  # ONNX Runtime raises its own classes without a common base
        reason = str(error).splitlines()[0].rstrip(".")
        if _NO_KERNEL not in reason:
            raise CheckError(
                f"ONNX Runtime does not take model.onnx: {reason}.", "Please report this with the model."
            ) from error
        return None, reason
    expected = flat_outputs(program.module, batch)
    moved = change(expected, outputs, real_outputs(program.module, judge, batch, expected))
    if not moved.within(tolerance):
        raise CheckError(f"model.onnx differs from its graph by {moved}.", "Please report this with the model.")
    return moved.largest, None


def _shapes(program: Program, judge: Samples) -> ShapeOptions:
    """Batches of 1 to 32; other free dimensions as long as they are in the data."""
    known = judge.batch(1)
    pairs = list(zip(program.inputs, known, strict=True))
    least, usual, largest = (
        {spec.name: _with_batch(tuple(value.shape), spec, batch) for spec, value in pairs} for batch in BATCH
    )
    return ShapeOptions(least, usual, largest)


def _with_batch(shape: Shape, spec: TensorSpec, batch: int) -> Shape:
    """The shape of one sample with the first axis as long as a batch makes it."""
    if not spec.shape:
        return shape
    first = spec.shape[0]
    words = re.findall(r"[A-Za-z_]\w*", first) if isinstance(first, str) else []
    return (spec.sizes(dict.fromkeys(words, batch))[0] if words else shape[0], *shape[1:])


def _run(
    result: Built, program: Program, path: Path, serial: Path, judge: Samples, precision: Precision, report: Report
) -> Built:
    """Compare and time the engines where a GPU runs them."""
    assert result.sidecar is not None
    profiles = result.sidecar.profiles
    sampled = [(p, rows) for p, name in zip(profiles, judge.stored, strict=True) if (rows := judge.feed(name).rows)]
    batch, single = judge.batch(min([32, *(p.largest[0] // rows for p, rows in sampled if p.largest)])), judge.batch(1)
    for value, profile in [*zip(batch, profiles, strict=True), *zip(single, profiles, strict=True)]:
        if not profile.holds(value.shape):
            shape = "x".join(map(str, value.shape))
            return replace(result, not_run=f"It takes {profile}, and the samples that judge make {shape}.")
    try:
        engine, twin = Engine(path), Engine(serial)
    except EnvironmentLackError as error:
        return replace(result, not_run=str(error))
    except ParallelizeError as error:
        return replace(result, not_run=f"{error} {error.hint}")
    with engine, twin, torch.no_grad():
        report("running the engine", None)
        expected = flat_outputs(program.module, batch)
        moved = change(expected, engine(batch), real_outputs(program.module, judge, batch, expected))
        if not moved.within(TOLERANCE[precision]):
            raise CheckError(f"The engine differs from its graph by {moved}.", "Please report this with the model.")
        calls = {name: _waiting(e, single) for name, e in (("serial", twin), ("rewrite", engine))}
        latencies = in_turn(calls)
    sidecar = replace(result.sidecar, errors={**result.sidecar.errors, "engine against graph": moved.largest})
    sidecar_path(path).write_text(sidecar.to_json())
    return replace(result, sidecar=sidecar, latencies=latencies)


def _waiting(engine: Engine, inputs: Sequence[Tensor]) -> Any:
    """A call that runs the inputs on the GPU and waits."""
    call = engine.bound([value.cuda() for value in inputs])

    def run() -> None:
        call()
        torch.cuda.current_stream().synchronize()

    return run
