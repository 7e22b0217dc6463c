"""An error from running the model on data says which sample, which inputs and which node.

PyTorch's own error says which operator did not like which number. What a user can mend is the sample, so the samples of
a batch that fails run one by one until one of them fails alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx

from parallelize.data import Samples
from parallelize.models.capture import first_sentence
from parallelize.models.program import Program
from passes.errors import ParallelizeError
from passes.graph.dataflow import described

Inputs = Sequence[Tensor]


class _Last(fx.Interpreter):
    """Remembers the node that it was at."""

    last: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:
        self.last = n
        return super().run_node(n)


@contextmanager
def blaming(program: Program, samples: Samples, start: int, size: int, what: str = "sample") -> Iterator[None]:
    """Run a batch of the unrewritten model; an error names sample, inputs and node.

    Args:
        program: the captured model.
        samples: of which the batch is a part.
        start: its first sample.
        size: how many samples it has.
        what: what a sample is called in the sentence.

    Raises:
        ParallelizeError: the model does not run on the batch.
    """
    try:
        yield
    except (ParallelizeError, torch.OutOfMemoryError):  # the latter is no fault of the batch but for its size
        raise
    except (RuntimeError, IndexError, ValueError, TypeError, AssertionError) as error:
        raise _blame(program, samples, start, size, what, error) from error


def _blame(program: Program, samples: Samples, start: int, size: int, what: str, error: Exception) -> ParallelizeError:
    end = min(start + size, len(samples))
    which = f"{what}s {start} to {end - 1}" if end - start > 1 else f"{what} {start}"
    inputs = samples.at(start, size)
    for number in range(start, end):
        alone = samples.take([number]).batch(1)
        failed = _failure(program.module, alone)
        if failed is not None:
            which, inputs, error = f"{what} {number}", alone, failed[1]
            break
    found = _failure(program.module, inputs)
    place = "" if found is None or found[0] is None else f" at {described(found[0])}"
    read = ", ".join(_told(name, value) for name, value in zip(samples.stored, inputs, strict=True))
    return ParallelizeError(
        f"{program.origin} does not run on {which}{place}: {first_sentence(error)}. It reads {read}.",
        "Check the values of this sample, or the shapes that the model was captured with.",
    )


def _failure(module: fx.GraphModule, inputs: Inputs) -> tuple[fx.Node | None, Exception] | None:
    watch = _Last(module)
    try:
        with torch.no_grad():
            watch.run(*inputs, enable_io_processing=False)
    except Exception as error:  # noqa: BLE001  (an operator may raise anything)
        return watch.last, error
    return None


def _told(name: str, value: Tensor) -> str:
    shape = "x".join(map(str, value.shape)) or "a single number"
    span = f" from {value.min().item():g} to {value.max().item():g}" if value.numel() else ""
    return f"{name} {shape}@{str(value.dtype).removeprefix('torch.')}{span}"
