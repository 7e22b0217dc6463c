"""A TensorRT engine, in the library that it was built with."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from parallelize.program import TensorSpec
from parallelize.runners.runner import fitting
from passes.errors import EnvironmentLackError

_HOME = "parallelize.backends.tensorrt.engine"  # imports the library that runs engines


class Engine(Protocol):
    """What this file asks of `parallelize.backends.tensorrt.engine.Engine`."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Outputs on the GPU of inputs there."""
        ...

    def bound(self, inputs: Sequence[Tensor]) -> Callable[[], object]:
        """A call that enqueues on the current stream."""
        ...


class EngineRunner:
    """An opened engine; see `parallelize.runners.runner.Runner`."""

    graphable = True

    def __init__(self, engine: Engine, name: str) -> None:
        self.name, self.device = name, torch.device("cuda")
        self.inputs, self.outputs = engine.inputs, engine.outputs
        self._engine = engine

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Outputs on the CPU."""
        return [value.cpu() for value in self._engine(self._placed(inputs))]

    def bound(self, inputs: Sequence[Tensor]) -> Callable[[], object]:
        """A call that only enqueues."""
        return self._engine.bound(self._placed(inputs))

    def _placed(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return [value.to(self.device).contiguous() for value in fitting(inputs, self.inputs)]


@contextmanager
def opened_engine(path: Path, *, trust: bool) -> Iterator[Engine]:
    """Yield the engine in a file, open while the block runs.

    Raises:
        EnvironmentLackError: no GPU, or no library that runs engines.
        ParallelizeError: the file is refused.
    """
    if not torch.cuda.is_available():
        raise EnvironmentLackError(
            f"Running the engine {path.name} needs a GPU, and this machine has none.",
            "Compare or time the .onnx that it was built from here, or go to a machine with a GPU.",
        )
    try:
        library: Any = importlib.import_module(_HOME)
    except ImportError as error:
        raise EnvironmentLackError(
            f"Running the engine {path.name} needs TensorRT, which is not installed.",
            "pip install 'parallelize[tensorrt]', or tensorrt-rtx for engines of TensorRT for RTX.",
        ) from error
    with library.Engine(path, trust=trust) as engine:
        yield engine
