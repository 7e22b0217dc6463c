"""Open an artefact with its runner."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from parallelize.healing.pair import choose_device
from parallelize.measuring.runners.artefact import Artefact, RunnerOptions
from parallelize.measuring.runners.runner import Runner
from parallelize.models.acceptance import refuse_any_random
from parallelize.models.prepare import captured


@contextmanager
def opened(artefact: Artefact, options: RunnerOptions) -> Iterator[Runner]:
    """Yield the artefact's runner; what it holds is freed when the block ends.

    Raises:
        EnvironmentLackError: the machine lacks a GPU or a library.
        ParallelizeError: the artefact cannot be loaded.
    """
    if artefact.kind == "engine":
        from parallelize.backends.tensorrt.engine import Engine
        from parallelize.measuring.runners.engine import EngineRunner

        with Engine(Path(str(artefact.source)), trust=options.trust, backend=artefact.runner) as engine:
            yield EngineRunner(engine)
        return
    with ExitStack() as stack:
        if artefact.runner.startswith("onnxruntime"):
            yield _onnxruntime(artefact, options, stack)
        else:
            yield _torch(artefact, options)


def _torch(artefact: Artefact, options: RunnerOptions) -> Runner:
    from parallelize.measuring.runners.compiled import Compiled
    from parallelize.measuring.runners.eager import Eager

    device = choose_device(options.device)
    program = captured(artefact.loading(options))
    refuse_any_random(program)
    return (Compiled if artefact.runner == "torch-compile" else Eager)(program, device)


def _onnxruntime(artefact: Artefact, options: RunnerOptions, stack: ExitStack) -> Runner:
    """A session on the file, or on one that a program is written to for as long as it runs."""
    from parallelize.backends.onnxruntime import OnnxRuntime
    from parallelize.export.onnx import write_onnx

    on_gpu = artefact.runner == "onnxruntime-cuda"
    if artefact.kind == "onnx":
        return OnnxRuntime(Path(str(artefact.source)), options.threads, cuda=on_gpu, tf32=options.tf32)
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parallelize-")))
    write_onnx(captured(artefact.loading(options)), directory / "model.onnx")
    return OnnxRuntime(directory / "model.onnx", options.threads, cuda=on_gpu, tf32=options.tf32)
