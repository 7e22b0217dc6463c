"""What the backends `tensorrt` and `tensorrt-rtx` share: an ONNX file is built into an engine, which a GPU runs."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parallelize.backends.backend import Backend, FileKind
from parallelize.backends.tensorrt.library import Library, find_library

if TYPE_CHECKING:
    from torch import nn

    from parallelize.backends.runner import Runner
    from parallelize.backends.runner_options import RunnerOptions
    from parallelize.backends.tensorrt.engine import Engine
    from parallelize.backends.tensorrt.options import BuildOptions
    from parallelize.backends.tensorrt.sidecar import Sidecar
    from parallelize.models.program import Program
    from parallelize.terminal.progress import Report
    from passes.errors import EnvironmentLackError

ENGINE = FileKind("engine", "an engine", ".engine")


@dataclass(frozen=True)
class EngineBackend(Backend):
    """A library that builds engines from ONNX files.

    Attributes:
        needs_gpu: whether it builds on a GPU only.
    """

    needs_gpu: bool = False

    @property
    def builds(self) -> FileKind:
        """The kind of file that it builds, which is the first that it takes."""
        return self.takes[0]

    @abstractmethod
    def builds_here(self) -> str | None:
        """Why it is taken to build an engine, or None where it builds none on this machine."""

    @abstractmethod
    def runs_here(self) -> str | None:
        """Why it is taken to build an engine for this machine, or None where its engines do not run on it."""

    def lack(self) -> EnvironmentLackError | None:
        """The library; engines can be built for another machine, so a GPU is none that is lacking."""
        from passes.errors import EnvironmentLackError

        try:
            find_library(self.name)
        except EnvironmentLackError as error:
            return error
        return None

    def owns(self, file: Path) -> bool:
        """Whether the sidecar names this library; whoever opens the engine says what is wrong with the sidecar."""
        from parallelize.backends.tensorrt.sidecar import sidecar_path

        try:
            return bool(json.loads(sidecar_path(file).read_text())["backend"] == self.name)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    @contextmanager
    def opened(self, source: Program | str | nn.Module, kind: FileKind, options: RunnerOptions) -> Iterator[Runner]:
        """The engine, loaded on the GPU."""
        from parallelize.backends.tensorrt.runner import EngineRunner

        del kind  # there is one only
        with self.load(Path(str(source)), trust=options.trust) as engine:
            yield EngineRunner(engine)

    def load(self, path: Path, *, trust: bool = False) -> Engine:
        """The engine of a file; raises as `Engine` does."""
        from parallelize.backends.tensorrt.engine import Engine

        return Engine(path, trust=trust, backend=self.name)

    def require(self, options: BuildOptions) -> Library:
        """The library, where it can build here with these options; raises as `build.require` does."""
        from parallelize.backends.tensorrt.build import require

        return require(self.name, options)

    def build(
        self,
        onnx: Path,
        output: Path,
        options: BuildOptions,
        *,
        plan: Mapping[str, Any] | None = None,
        errors: Mapping[str, float] | None = None,
        report: Report = lambda _what, _share: None,
    ) -> Sidecar:
        """Build an engine and write it with its sidecar; arguments and errors are those of `build.build`."""
        from parallelize.backends.tensorrt.build import build

        return build(onnx, output, self.name, options, plan=plan, errors=errors, report=report)
