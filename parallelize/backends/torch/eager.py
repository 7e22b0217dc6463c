"""A captured program, run eagerly by torch on the CPU or a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from parallelize.backends.runner import fitting
from parallelize.models.placement import on_device
from parallelize.models.program import Program


class Eager:
    """torch eager; see `parallelize.backends.runner.Runner`."""

    name = "torch"
    graphable = True

    def __init__(self, program: Program, device: torch.device) -> None:
        self.device, self.inputs, self.outputs = device, program.inputs, program.outputs
        self._program = program
        self._module: Callable[..., Any] = on_device(program.module, device)

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Outputs on the device of the first input."""
        with torch.inference_mode():
            result = self._module(*self._placed(inputs))
            return [tensor.to(inputs[0].device) for tensor in self._program.flat_outputs(result)]

    def bound(self, inputs: Sequence[Tensor]) -> Callable[[], object]:
        """A call that runs these inputs."""
        placed = self._placed(inputs)

        def call() -> object:
            with torch.inference_mode():
                return self._module(*placed)

        return call

    def _placed(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return [value.to(self.device) for value in fitting(inputs, self.inputs)]
