"""Engines for the latency study: every TensorRT that imports, through the product's own backend."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from torch import Tensor

from parallelize.backends.tensorrt.library import RTX, TENSORRT, find_library
from parallelize.export.onnx import write_onnx
from parallelize.models.program import Program
from passes.errors import ParallelizeError

Note = Callable[[str], None]


def libraries(note: Note) -> Iterator[str]:
    """The backends that import here."""
    for backend in (TENSORRT, RTX):
        try:
            find_library(backend)
        except ParallelizeError as error:
            note(f"{backend}: not measured. {error}")
            continue
        yield backend


def prepare_engine(backend: str, program: Program, value: Tensor, note: Note) -> Callable[[], object] | None:
    """Build an engine for one input and return a call that enqueues it; None, and a note, where that fails."""
    from parallelize.backends.tensorrt.build import build
    from parallelize.backends.tensorrt.engine import Engine
    from parallelize.backends.tensorrt.options import BuildOptions
    from parallelize.backends.tensorrt.profiles import ShapeOptions

    with tempfile.TemporaryDirectory() as folder:
        onnx, path = Path(folder) / "model.onnx", Path(folder) / "model.engine"
        (spec,) = program.inputs
        shapes = ShapeOptions.fixed({spec.name: tuple(value.shape)})
        try:
            write_onnx(program, onnx)
            build(onnx, path, backend, BuildOptions(shapes=shapes))
            return Engine(path).bound([value])
        except ParallelizeError as error:
            note(f"{backend}: {error}")
            return None
