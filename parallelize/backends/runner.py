"""What a backend opens: something that computes outputs from tensors on the CPU, and that can be timed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from parallelize.data import InputSpec
from parallelize.data.tensor_spec import TensorSpec
from parallelize.models.prepare import Source
from parallelize.models.program import Program
from passes.errors import ParallelizeError

_LATER_GPU = re.compile(r"cuda:0*[1-9]\d*", re.ASCII)


@dataclass(frozen=True)
class RunnerOptions:
    """How artefacts are loaded and run.

    Attributes:
        threads: of runners on the CPU.
        device: of torch: cpu or cuda; None is a GPU where there is one. A GPU is the first one, which engines and
            ONNX Runtime take too, and whose clock is read.
        tf32: whether float32 products on a GPU may be rounded to TF32.
        trust: load engines that no sidecar vouches for.
        inputs: .npz that tells the shapes of a factory's inputs.
        weights: state dict for a factory or timm:NAME.
        weights_key: the key under which `weights` holds them, where several would fit.
        input_specs: shapes of the inputs of a factory.
        allow_pickle: load a pickled module.

    Raises:
        ParallelizeError: a device that is another GPU than the first.
    """

    threads: int = 1
    device: str | None = None
    tf32: bool = False
    trust: bool = False
    inputs: Path | None = None
    weights: Path | None = None
    input_specs: tuple[InputSpec, ...] = ()
    allow_pickle: bool = False
    weights_key: str | None = None

    def __post_init__(self) -> None:
        if self.device is not None and _LATER_GPU.fullmatch(self.device):
            raise ParallelizeError(
                f"Networks are compared and timed on the first GPU, not on {self.device!r}.",
                "Use --device cuda, and choose the GPU by CUDA_VISIBLE_DEVICES in the environment.",
            )

    def loading(self, source: Program | str) -> Source:
        """The program to capture; options that only a reference to code can use are for those."""
        plain = isinstance(source, Program) or source.endswith(".pt2")
        weights, specs = (None, ()) if plain else (self.weights, self.input_specs)
        return Source(
            source,
            self.inputs,
            weights=weights,
            weights_key=self.weights_key,
            input_specs=specs,
            allow_pickle=self.allow_pickle,
        )


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
        """Outputs on the CPU of inputs on the CPU."""
        ...

    def bound(self, inputs: Sequence[Tensor]) -> Callable[[], object]:
        """A call without arguments that runs these inputs (on the CPU), for timing.

        On a GPU the inputs are moved there now, and the call only enqueues on what is the current stream now.
        """
        ...


def fitting(inputs: Sequence[Tensor], specs: Sequence[TensorSpec]) -> list[Tensor]:
    """Inputs in the dtypes that a runner reads: float32 data for a float16 engine, int64 ids for int32."""
    return [value.to(spec.dtype) for value, spec in zip(inputs, specs, strict=True)]
