"""An ONNX file becomes an engine with its sidecar, each written whole.

    read and check the ONNX -> choose shapes -> parse -> configure -> build -> list layers -> check dtypes -> write

What can be refused is refused before the builder is called; what the builder did is checked after it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parallelize.backends.tensorrt.choices import Precision
from parallelize.backends.tensorrt.layers import Layer, from_json, from_text, layers_of
from parallelize.backends.tensorrt.library import Library, find_library, gpu_capability
from parallelize.backends.tensorrt.messages import last_words, make_logger
from parallelize.backends.tensorrt.monitor import make_monitor
from parallelize.backends.tensorrt.options import STORED, BuildOptions, configure
from parallelize.backends.tensorrt.parsing import parse
from parallelize.backends.tensorrt.profiles import Profile, choose_profiles
from parallelize.backends.tensorrt.sidecar import BUILDER, INSPECTOR, Sidecar, sidecar_path
from parallelize.export.onnx_file import OnnxFile, Product, read_onnx
from parallelize.files.whole_file import output_file, require_place
from parallelize.machine.gpu import cuda_version, driver_version, gpu_name
from parallelize.terminal.progress import Report
from passes.errors import CheckError, EnvironmentLackError, ParallelizeError


def build(
    onnx: Path,
    output: Path,
    backend: str,
    options: BuildOptions | None = None,
    *,
    plan: Mapping[str, Any] | None = None,
    errors: Mapping[str, float] | None = None,
    report: Report = lambda _what, _share: None,
) -> Sidecar:
    """Build an engine and write it with its sidecar.

    Args:
        onnx: the ONNX file; external weights lie beside it.
        output: the engine to write; the sidecar gets its name with .json behind.
        backend: "tensorrt", which needs a GPU, or "tensorrt-rtx", which does not.
        options: precision, shapes and the rest.
        plan: the plan of the rewrite, for the sidecar.
        errors: measured errors, for the sidecar.
        report: told what is being done.

    Raises:
        EnvironmentLackError: the library or the GPU is missing, or the place cannot be written to.
        ParallelizeError: the ONNX file is not whole, has an operator that the library lacks, or takes no such shapes.
        CheckError: the engine is not in the precision that was asked for.
    """
    options = options or BuildOptions()
    library = require(backend, options)
    _require_places(output, options.timing_cache)
    model = read_onnx(onnx)
    check_stored(model, options.precision)
    profiles = choose_profiles(model.inputs, options.shapes)
    report("building the engine", 0)
    made = _build(library, model, profiles, options, report)
    check_layers(model.products, made.layers, options.precision)
    sidecar = Sidecar(
        backend=backend,
        version=library.version,
        targets=options.targets(library) or tuple(filter(None, [gpu_capability()])),
        gpu=None if library.names_targets else gpu_name(),
        cuda=cuda_version(),
        driver=driver_version(),
        date=dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        parallelize=_own_version(),
        onnx_sha256=model.sha256(),
        engine_sha256=hashlib.sha256(made.engine).hexdigest(),
        precision=options.precision,
        flags=options.flags(),
        inputs=model.inputs,
        outputs=model.outputs,
        profiles=profiles,
        build_seconds=made.seconds,
        layers=made.layers,
        layers_from=made.layers_from,
        products=model.products,
        plan=plan,
        errors=dict(errors or {}),
        returns=model.returns.to_metadata(),
    )
    write(output, made.engine, sidecar)
    if options.timing_cache is not None and made.timings is not None:
        _save_timings(options.timing_cache, made.timings)
    return sidecar


def require(backend: str, options: BuildOptions) -> Library:
    """The library of a backend, where it can build here with these options.

    Raises:
        EnvironmentLackError: the library or the GPU is missing.
        ParallelizeError: an option that the library does not have.
    """
    library = find_library(backend)
    options.check(library)
    if not library.names_targets and gpu_capability() is None:
        raise EnvironmentLackError(
            f"{library.title} builds on a GPU, and there is none here.",
            "Use --backend tensorrt-rtx, which needs none, or build on the machine that has the GPU.",
        )
    return library


def write(output: Path, engine: Any, sidecar: Sidecar) -> None:
    """Write an engine and its sidecar; each takes its place when both are whole."""
    failed, hint = _failed(output), "Make room, or choose a place that you may write to."
    with (
        output_file(output, failed, hint) as new_engine,
        output_file(sidecar_path(output), failed, hint) as new_sidecar,
    ):
        new_engine.write_bytes(engine)
        new_sidecar.write_text(sidecar.to_json())


def _failed(output: Path) -> str:
    return f"The engine cannot be written to {output}"


def _require_places(output: Path, timing_cache: Path | None) -> None:
    """Refuse before the build what cannot be written after it."""
    require_place(output, _failed(output))
    require_place(sidecar_path(output), f"The sidecar cannot be written to {sidecar_path(output)}")
    if timing_cache is None:
        return
    require_place(timing_cache, _cache_failed(timing_cache))
    if timing_cache.resolve() in (output.resolve(), sidecar_path(output).resolve()):
        raise ParallelizeError(f"The timing cache {timing_cache} is what is built.", "Name another --timing-cache.")


def check_stored(model: OnnxFile, precision: Precision | None) -> None:
    """Refuse an ONNX file whose products are not in the precision that was asked for: the engine's come from it.

    Raises:
        ParallelizeError: naming the first such product.
    """
    if precision is None:
        return
    for product in model.products:
        if product.dtype != STORED[precision]:
            raise ParallelizeError(
                f"{precision} was asked for, but the weight of {product.node} ({product.operator}) in {model.path.name}"
                f" is {product.dtype}.",
                f"Cast the model before export: parallelize convert --precision {precision}.",
            )


def check_layers(products: Sequence[Product], layers: Sequence[Layer], precision: Precision | None) -> None:
    """Refuse an engine in which a weighted product runs in another dtype than was asked for.

    A product whose layer tells no dtype of its weights cannot be checked; an engine without any other is refused.

    Raises:
        CheckError: naming the first such layer.
    """
    if precision is None or not products:
        return
    seen = 0
    for product in products:
        for layer in layers_of(layers, product.node):
            if not layer.weights:
                continue
            seen += 1
            if STORED[precision] not in layer.weights:
                raise CheckError(
                    f"{precision} was asked for, but the engine's layer {layer.name} computes {product.node} in"
                    f" {layer.weights[0]}.",
                    "Please report this with the ONNX file.",
                )
    if not seen:
        raise CheckError(
            f"{precision} was asked for, but the library does not tell the dtype of any of the engine's products.",
            "Build without --precision and compare the outputs.",
        )


@dataclass(frozen=True)
class _Made:
    """What the builder gave.

    Attributes:
        engine: serialized.
        layers: of the engine.
        layers_from: who told of them.
        seconds: that the builder took.
        timings: the timing cache, where there is one.
    """

    engine: bytes
    layers: tuple[Layer, ...]
    layers_from: str
    seconds: float
    timings: bytes | None


def _build(
    library: Library, model: OnnxFile, profiles: Sequence[Profile], options: BuildOptions, report: Report
) -> _Made:
    logger = make_logger(library.module)
    builder = library.module.Builder(logger)
    network, parser = parse(library, builder, logger, model)
    config = builder.create_builder_config()
    configure(library, config, options)
    config.progress_monitor = monitor = make_monitor(library.module, report)
    config.add_optimization_profile(_profile(builder, profiles))
    cache = None if options.timing_cache is None else _load_timings(config, options.timing_cache)
    start = time.perf_counter()
    serialized = builder.build_serialized_network(network, config)
    seconds = time.perf_counter() - start
    del monitor, parser  # the builder was using both
    if serialized is None:
        reason = last_words(logger) or "the builder gave no reason"
        raise ParallelizeError(
            f"{library.title} cannot build {model.path.name}: {reason}.",
            "Try other shapes or less memory; the library's own tool tells more with --verbose.",
        )
    engine = bytes(serialized)
    timings = None if cache is None else bytes(config.get_timing_cache().serialize())
    layers, source = _layers(library, logger, engine)
    return _Made(engine, layers, source, seconds, timings)


def _profile(builder: Any, profiles: Sequence[Profile]) -> Any:
    profile = builder.create_optimization_profile()
    for shapes in profiles:
        profile.set_shape(shapes.name, shapes.least, shapes.usual, shapes.largest)
    return profile


def _layers(library: Library, logger: Any, engine: bytes) -> tuple[tuple[Layer, ...], str]:
    """From the inspector where the engine loads here, else from what the builder said."""
    if gpu_capability() is not None:
        loaded = library.module.Runtime(logger).deserialize_cuda_engine(engine)
        if loaded is not None:
            form = library.module.LayerInformationFormat.JSON
            return from_json(loaded.create_engine_inspector().get_engine_information(form)), INSPECTOR
        if not library.names_targets:
            raise ParallelizeError(
                f"The engine was built, but {library.title} does not load it here: {last_words(logger)}.",
                "Check the driver and the memory of the GPU.",
            )
    return (from_text(logger.plans[-1]) if logger.plans else ()), BUILDER


def _load_timings(config: Any, path: Path) -> Any:
    try:
        stored = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise ParallelizeError(
            f"The timing cache {path} cannot be read: {error.strerror}.", "Check who may read the file."
        ) from error
    cache = config.create_timing_cache(stored)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise ParallelizeError(
            f"The timing cache {path} is of another GPU or another version.", "Name another file with --timing-cache."
        )
    return cache


def _save_timings(path: Path, timings: bytes) -> None:
    with output_file(path, _cache_failed(path), "The engine is written; name another place next time.") as temporary:
        temporary.write_bytes(timings)


def _cache_failed(path: Path) -> str:
    return f"The timing cache {path} cannot be written"


def _own_version() -> str:
    from parallelize import __version__

    return __version__
