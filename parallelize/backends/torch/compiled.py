"""A captured program through torch.compile, which compiles at the first call of each shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from parallelize.backends.torch.eager import Eager
from parallelize.models.capture import first_sentence
from parallelize.models.program import Program
from passes.errors import EnvironmentLackError


class Compiled(Eager):
    """torch.compile; see `parallelize.backends.runner.Runner`."""

    name = "torch-compile"

    def __init__(self, program: Program, device: torch.device) -> None:
        super().__init__(program, device)
        self._module = torch.compile(self._module, dynamic=False)

    def bound(self, inputs: Sequence[Tensor]) -> Callable[[], object]:
        """A call that runs these inputs, compiled for their shapes.

        Raises:
            EnvironmentLackError: torch.compile fails on this machine.
        """
        self(inputs)
        return super().bound(inputs)

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Outputs on the device of the first input.

        Raises:
            EnvironmentLackError: torch.compile fails on this machine.
        """
        from torch._dynamo.exc import TorchDynamoException

        try:
            return super().__call__(inputs)
        except TorchDynamoException as error:
            why = getattr(error, "inner_exception", error)  # its own first line is that a backend raised
            raise EnvironmentLackError(
                f"torch.compile fails here: {first_sentence(why)}.",
                "It needs a C++ compiler on the CPU and Triton on a GPU; use the runner torch.",
            ) from error
