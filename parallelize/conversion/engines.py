"""The engine of a conversion: cast, exported, built, checked, counted; run and timed where there is a GPU for it.

    product (fp32) -> cast -> model.onnx -> engine;  serial (fp32) -> cast -> onnx -> engine, for the count of layers
    prefixes, where they are asked for, as the product, with the same parts in fp32

The ONNX file that an engine is built from is compared in ONNX Runtime with the graph that it was written from, where
that has kernels for the precision. What could not be checked on this machine is said, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

from parallelize.backends.backend import ONNX, Backend
from parallelize.backends.choice import Choice
from parallelize.backends.onnxruntime.session import OnnxRuntime
from parallelize.backends.runner_options import RunnerOptions
from parallelize.backends.tensorrt.backend import EngineBackend
from parallelize.backends.tensorrt.choices import Precision
from parallelize.backends.tensorrt.options import BuildOptions
from parallelize.backends.tensorrt.profiles import BATCH, Shape, ShapeOptions
from parallelize.backends.tensorrt.sidecar import Sidecar, sidecar_path
from parallelize.conversion.engine_options import HALF
from parallelize.conversion.engine_result import BackendResult, Counts, EngineResult
from parallelize.conversion.options import EngineOptions
from parallelize.data import Samples
from parallelize.data.split import Split
from parallelize.data.tensor_spec import TensorSpec
from parallelize.export.onnx import write_onnx
from parallelize.export.precision import PrecisionRecord, cast
from parallelize.export.precision_result import PrecisionResult
from parallelize.machine.latency import Latency
from parallelize.measuring.timing import latencies
from parallelize.measuring.written import CHECKED, compared
from parallelize.models.program import Program
from parallelize.terminal.progress import Report
from passes.errors import CheckError, EnvironmentLackError, ParallelizeError

ROUNDS = 200  # of timing engines
SAMPLES = 64  # on which the islands of a cast are chosen
_NO_KERNEL = "NOT_IMPLEMENTED"  # in the words of ONNX Runtime


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
        latencies: milliseconds until the result is there, by name, as `bench` times a GPU; empty where no GPU ran them.
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


@dataclass(frozen=True, eq=False)
class Other:
    """A network that becomes files as the product does, which in fp32 it is already.

    Attributes:
        name: in the tables.
        stem: of its files, without their suffixes.
        make: makes it.
    """

    name: str
    stem: str
    make: Callable[[], Program]


@dataclass(frozen=True, eq=False)
class Work:
    """What a conversion has made so far, and what is to become of it.

    Attributes:
        product: the rewritten and fused model.
        serial: the model as captured, for the count of its engine's layers.
        directory: where the files go, with model.onnx in fp32; scratch files are removed again.
        options: precision and how to build.
        choice: the backend, as `settle` gave it.
        data: what is held out chooses what stays in fp32, outputs are compared on what judges, and no sample may leave
            the range of the precision.
        onnx_error: of model.onnx in fp32 against the graph of `product`.
        plan: for the sidecar.
        others: further networks that become files as the product does.
    """

    product: Program
    serial: Program
    directory: Path
    options: EngineOptions
    choice: Choice[Backend]
    data: Split
    onnx_error: float
    plan: Mapping[str, Any]
    others: tuple[Other, ...] = ()

    @property
    def onnx(self) -> Path:
        """The product as ONNX."""
        return self.directory / ONNX.product

    def engine(self, builder: EngineBackend) -> Path:
        """The product as an engine."""
        return self.directory / builder.builds.product


def write_product(work: Work, report: Report) -> Built:
    """Write model.onnx anew where another precision than fp32 was asked for, and the engine where one was.

    Raises:
        CheckError: the ONNX file or the engine does not compute what the graph computes, or half precision cannot.
        ParallelizeError: as `build`.
    """
    precision, builder, judge = work.options.computes_in, work.choice.builder, work.data.judge
    made, record = _cast(work, report)
    result = Built(work.choice.backend.name, work.choice.why, record, work.onnx_error)
    if made is not work.product:
        error, skipped = _write_cast(made, work.onnx, judge, precision)
        result = replace(result, onnx_error=error, onnx_skipped=skipped)
        for other in work.others:
            report(f"writing and checking the ONNX of '{other.name}' in {precision}", None)
            path = work.directory / f"{other.stem}{ONNX.suffix}"
            _write_cast(_cast_alike(other.make(), record), path, judge, precision)
    if builder is None:
        return result
    options = building(work.options, work.product, judge)
    errors = _errors(record, result.onnx_error)
    sidecar = builder.build(work.onnx, work.engine(builder), options, plan=work.plan, errors=errors, report=report)
    twin = work.directory / f"serial{builder.builds.suffix}"
    serial = _build_twin(work.serial, twin, builder, options, record, report)
    counts = {"serial": Counts.of(serial.layers), "rewrite": Counts.of(sidecar.layers)}
    for each, path in zip(work.others, _engines(work, builder), strict=True):
        report(f"building the engine of '{each.name}'", None)
        onnx = path.with_suffix(ONNX.suffix)
        counts[each.name] = Counts.of(builder.build(onnx, path, options, plan=work.plan, report=report).layers)
    result = replace(result, sidecar=sidecar, counts=counts)
    result = _run(result, work, made, twin, report)
    for path in work.directory.glob("serial.*"):
        path.unlink()
    return result


def building(options: EngineOptions, program: Program, judge: Samples) -> BuildOptions:
    """How the engine of a program is built: in its precision, and for the shapes of the data where none are given."""
    given = options.build.shapes
    shapes = given if given != ShapeOptions() else _shapes(program, judge)
    return replace(options.build, precision=options.computes_in, shapes=shapes)


def _cast(work: Work, report: Report) -> tuple[Program, PrecisionRecord]:
    """Cast for fp16 and bf16; the program itself for the others.

    Raises:
        CheckError: the outputs of every candidate are infinite or no numbers.
    """
    precision, data = work.options.computes_in, work.data
    if precision not in HALF:
        return cast(work.product, "fp32")
    report(f"casting to {precision}", None)
    every = (data.fit, data.held_out, data.judge)
    made, record = cast(work.product, HALF[precision], data.held_out.head(SAMPLES), every=every)
    if record.errors and not isfinite(min(error for _, error in record.errors)):
        raise CheckError(
            f"The outputs of {work.product.origin} are infinite or no numbers in {precision}, whatever stays in fp32.",
            "Use --precision bf16, which has the range of fp32, or fp32.",
        )
    return made, record


def _write_cast(made: Program, onnx: Path, judge: Samples, precision: Precision) -> tuple[float | None, str | None]:
    """Write the cast program in the place of model.onnx: its error against its graph, or why there is none."""
    for path in onnx.parent.glob(f"{onnx.name}*"):  # with weights beside it, which a smaller file has inside
        path.unlink()
    write_onnx(made, onnx)
    return _check_onnx(made, onnx, judge, precision)


def _build_twin(
    serial: Program, path: Path, builder: EngineBackend, options: BuildOptions, record: PrecisionRecord, report: Report
) -> Sidecar:
    """The engine of the serial network, with the islands of the rewrite."""
    report("building the engine of the serial network, to count its layers", None)
    onnx = path.with_suffix(ONNX.suffix)
    write_onnx(_cast_alike(serial, record), onnx)
    return builder.build(onnx, path, options, report=report)


def _cast_alike(program: Program, record: PrecisionRecord) -> Program:
    """Another network, cast as the rewrite was: the same parts stay in fp32."""
    if record.kept is None or record.dtype not in HALF:
        return program
    return cast(program, record.dtype, None, [record.kept])[0]


def _errors(record: PrecisionRecord, onnx_error: float | None) -> dict[str, float]:
    """What is known of the model before the engine is built."""
    found = {}
    chosen = [error for kept, error in record.errors if kept == record.kept]
    if chosen:
        found[f"cast against fp32 ({record.metric})"] = chosen[0]
    if onnx_error is not None:
        found["onnx against graph"] = onnx_error
    return found


def _check_onnx(program: Program, path: Path, judge: Samples, precision: Precision) -> tuple[float | None, str | None]:
    """The error of an ONNX file against its graph, or why ONNX Runtime does not run it."""
    try:
        outputs = OnnxRuntime(path, threads=1)(judge.batch(CHECKED))
    except Exception as error:  # ONNX Runtime raises its own classes without a common base
        reason = str(error).splitlines()[0].rstrip(".")
        if _NO_KERNEL not in reason:
            raise CheckError(
                f"ONNX Runtime does not take {path.name}: {reason}.", "Please report this with the model."
            ) from error
        return None, reason
    return compared(path.name, lambda _inputs: outputs, program, judge, precision).error, None


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


def _run(result: Built, work: Work, made: Program, twin: Path, report: Report) -> Built:
    """Compare and time the engines of the product, which computes `made`, and of its serial twin where a GPU is."""
    builder, judge = work.choice.builder, work.data.judge
    assert builder is not None
    assert result.sidecar is not None
    profiles = result.sidecar.profiles
    sampled = [(p, rows) for p, name in zip(profiles, judge.stored, strict=True) if (rows := judge.feed(name).rows)]
    size = min([CHECKED, *(p.largest[0] // rows for p, rows in sampled if p.largest)])
    for value, profile in [pair for n in (size, 1) for pair in zip(judge.batch(n), profiles, strict=True)]:
        if not profile.holds(value.shape):
            shape = "x".join(map(str, value.shape))
            return replace(result, not_run=f"It takes {profile}, and the samples that judge make {shape}.")
    with ExitStack() as stack:
        try:
            engine, serial, *others = (
                stack.enter_context(builder.opened(str(file), builder.builds, RunnerOptions()))
                for file in (work.engine(builder), twin, *_engines(work, builder))
            )
        except EnvironmentLackError as error:
            return replace(result, not_run=str(error))
        except ParallelizeError as error:
            return replace(result, not_run=f"{error} {error.hint}")
        report("running the engine", None)
        moved = compared("The engine", engine, made, judge, work.options.computes_in, size=size).error
        for other, runner in zip(work.others, others, strict=True):
            program = _cast_alike(other.make(), result.precision)
            compared(f"The engine of '{other.name}'", runner, program, judge, work.options.computes_in, size=size)
        named = {other.name: runner for other, runner in zip(work.others, others, strict=True)}
        times = latencies({"serial": serial, "rewrite": engine, **named}, judge, ROUNDS)
    sidecar = replace(result.sidecar, errors={**result.sidecar.errors, "engine against graph": moved})
    sidecar_path(work.engine(builder)).write_text(sidecar.to_json())
    return replace(result, sidecar=sidecar, latencies=times)


def _engines(work: Work, builder: EngineBackend) -> list[Path]:
    """The engines of further networks."""
    return [work.directory / f"{other.stem}{builder.builds.suffix}" for other in work.others]
