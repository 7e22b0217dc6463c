"""A TensorRT engine, in the library that it was built with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from parallelize.backends.runner import fitting
from parallelize.backends.tensorrt.engine import Engine


class EngineRunner:
    """A loaded engine; see `parallelize.backends.runner.Runner`."""

    graphable = True

    def __init__(self, engine: Engine) -> None:
        self.name, self.device = engine.library.backend, torch.device("cuda")
        self.inputs, self.outputs = engine.inputs, engine.outputs
        self._engine = engine

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Outputs on the device of the first input."""
        return [value.to(inputs[0].device) for value in self._engine(self._placed(inputs))]

    def bound(self, inputs: Sequence[Tensor]) -> Callable[[], object]:
        """A call that only enqueues."""
        return self._engine.bound(self._placed(inputs))

    def _placed(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return [value.to(self.device).contiguous() for value in fitting(inputs, self.inputs)]
