"""The backends `onnxruntime` and `onnxruntime-cuda`: an ONNX file, or a program that is written to one meanwhile."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from parallelize.backends.backend import ONNX, PROGRAM, Backend, FileKind

if TYPE_CHECKING:
    from torch import nn

    from parallelize.backends.runner import Runner
    from parallelize.backends.runner_options import RunnerOptions
    from parallelize.models.program import Program
    from passes.errors import EnvironmentLackError


@dataclass(frozen=True)
class OnnxRuntimeBackend(Backend):
    """ONNX Runtime runs an ONNX file.

    Attributes:
        cuda: whether on a GPU.
    """

    cuda: bool = False

    def found(self) -> str:
        """The version, and what it runs on."""
        library = importlib.import_module("onnxruntime")
        names = [name.removesuffix("ExecutionProvider") for name in library.get_available_providers()]
        return f"{library.__version__} ({', '.join(names)})"

    def lack(self) -> EnvironmentLackError | None:
        """The package, or the GPU."""
        from parallelize.backends.onnxruntime.session import require
        from passes.errors import EnvironmentLackError

        try:
            require(cuda=self.cuda)
        except EnvironmentLackError as error:
            return error
        return None

    @contextmanager
    def opened(self, source: Program | str | nn.Module, kind: FileKind, options: RunnerOptions) -> Iterator[Runner]:
        """A session on the file, or on one that a program is written to for as long as it runs."""
        from parallelize.backends.onnxruntime.session import OnnxRuntime
        from parallelize.models.prepare import captured

        if kind == ONNX:
            yield OnnxRuntime(Path(str(source)), options.threads, cuda=self.cuda, tf32=options.tf32)
            return
        with tempfile.TemporaryDirectory(prefix="parallelize-") as folder:
            path = Path(folder) / ONNX.product
            program = captured(options.loading(source))
            yield OnnxRuntime.written(program, path, options.threads, cuda=self.cuda, tf32=options.tf32)


ONNXRUNTIME = OnnxRuntimeBackend(
    "onnxruntime",
    "ONNX Runtime",
    (ONNX, PROGRAM),
    install="pip install onnxruntime",
    enables="checks and latency of ONNX files",
)
ONNXRUNTIME_CUDA = OnnxRuntimeBackend(
    "onnxruntime-cuda", "ONNX Runtime on a GPU", (ONNX, PROGRAM), install="pip install onnxruntime-gpu", cuda=True
)
