"""How artefacts are loaded and run.

Imports no torch, because the command line makes its options of the fields.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parallelize.models.source import LoadOptions, Source
from parallelize.terminal.option_field import option
from passes.errors import ParallelizeError

if TYPE_CHECKING:
    from torch import nn

    from parallelize.data import Stored
    from parallelize.models.program import Program

_LATER_GPU = re.compile(r"cuda:0*[1-9]\d*", re.ASCII)


@dataclass(frozen=True)
class RunnerOptions(LoadOptions):
    """How artefacts are loaded and run.

    Attributes:
        trust: load engines that no sidecar vouches for.
        device: of torch: cpu or cuda; None is a GPU where there is one. A GPU is the first one, which engines and
            ONNX Runtime take too, and whose clock is read.
        threads: of runners on the CPU.
        tf32: whether float32 products on a GPU may be rounded to TF32.
        inputs: data that tells the shapes of the inputs of a factory or module.

    Raises:
        ParallelizeError: a device that is another GPU than the first.
    """

    trust: bool = option(
        False, "Load an engine without a sidecar of its hash; an engine is code and runs.", name="--trust-engine"
    )
    device: str | None = option(None, "Of torch: cpu or cuda, the first GPU (default: cuda where there is one).")
    threads: int = option(1, "Of runners on the CPU.", least=1)
    tf32: bool = False
    inputs: Stored | None = None

    def __post_init__(self) -> None:
        if self.device is not None and _LATER_GPU.fullmatch(self.device):
            raise ParallelizeError(
                f"Networks are compared and timed on the first GPU, not on {self.device!r}.",
                "Use --device cuda, and choose the GPU by CUDA_VISIBLE_DEVICES in the environment.",
            )

    def loading(self, source: Program | str | nn.Module) -> Source:
        """The program to capture; options that only a reference to code can use are for those."""
        plain = not isinstance(source, str) or source.endswith(".pt2")
        weights, specs = (None, ()) if plain else (self.weights, self.input_specs)
        return Source(
            source,
            self.inputs,
            weights=weights,
            weights_key=self.weights_key,
            input_specs=specs,
            allow_pickle=self.allow_pickle,
        )
