"""What a backend opens: something that computes outputs from tensors, and that can be timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from parallelize.data.tensor_spec import TensorSpec


class Runner(Protocol):
    """A network ready to run.

    Attributes:
        name: of the backend that opened it.
        device: where it runs.
        inputs: what it reads, in order.
        outputs: what it returns, in order.
        graphable: whether a CUDA graph can hold a bound call.
    """

    name: str
    device: torch.device
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    graphable: bool

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Outputs on the device of the first input; several threads may call at once."""
        ...

    def bound(self, inputs: Sequence[Tensor]) -> Callable[[], object]:
        """A call without arguments that runs these inputs (on the CPU), for timing.

        On a GPU the inputs are moved there now, and the call only enqueues on what is the current stream now.
        """
        ...


def fitting(inputs: Sequence[Tensor], specs: Sequence[TensorSpec]) -> list[Tensor]:
    """Inputs in the dtypes that a runner reads: float32 data for a float16 engine, int64 ids for int32."""
    return [value.to(spec.dtype) for value, spec in zip(inputs, specs, strict=True)]
