"""A network as it was written to a file: its outputs against those of the graph that it comes from.

The graph and a runner of the file get the same inputs, and the largest difference of their outputs is taken over the
largest output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, fx

from parallelize.data import Samples
from parallelize.data.padding import real_outputs
from parallelize.models.program import Program
from parallelize.models.states import batch_size
from passes.errors import CheckError
from passes.graph.agreement import change
from passes.graph.outputs import flat_outputs

MaybeTensor = TypeVar("MaybeTensor", Tensor, Tensor | None)
CHECKED = 32  # samples that outputs are compared on
# Of the largest output: other kernels add in another order, and a product of TensorFloat-32 keeps ten bits.
TOLERANCE = {"fp32": 1e-3, "tf32": 1e-2, "fp16": 2e-2, "bf16": 1e-1}


@dataclass(frozen=True)
class Comparison:
    """A file against the graph that it was written from: largest difference over the largest output."""

    error: float
    tolerance: float
    samples: int


def compared(
    what: str,
    run: Callable[[Sequence[Tensor]], Sequence[Tensor]],
    program: Program,
    samples: Samples,
    precision: str = "fp32",
    *,
    size: int = CHECKED,
    like: fx.GraphModule | None = None,
) -> Comparison:
    """Compare what runs a file with the graph that the file was written from.

    Args:
        what: the file, for a sentence.
        run: inputs -> outputs, as a runner does.
        program: the graph.
        samples: of which the first are run.
        precision: that the file computes in, which sets the tolerance.
        size: samples that are run, fewer where values are large.
        like: the graph whose outputs tell where padding lies; without it that of the program.

    Raises:
        CheckError: the file computes something else.
    """
    size = batch_size(program.module, size)
    batch = samples.batch(size)
    with torch.no_grad():
        expected = flat_outputs(program.module, batch)
        real = real_outputs(like or program.module, samples, batch, expected)
        moved = change(_on_host(expected), _on_host(run(batch)), _on_host(real))
    if not moved.within(TOLERANCE[precision]):
        raise CheckError(f"{what} differs from its graph by {moved}.", "Please report this with the model.")
    return Comparison(moved.largest, TOLERANCE[precision], samples.fixed or min(size, len(samples)))


def _on_host(values: Sequence[MaybeTensor]) -> list[MaybeTensor]:
    """What runs a file may be on another device than the graph."""
    return [value if value is None else value.cpu() for value in values]
