"""A backend in one file: it runs models that are a number, by which their input is multiplied."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from parallelize.backends.backend import Backend, FileKind
from parallelize.backends.runner import Runner
from parallelize.backends.runner_options import RunnerOptions
from parallelize.data.tensor_spec import TensorSpec
from parallelize.models.program import Program
from passes.errors import EnvironmentLackError

NUMBER = FileKind("number", "a number", ".toy")


class Multiplier:
    """A model ready to run."""

    name = "toy"
    device = torch.device("cpu")
    inputs = (TensorSpec("x", ("batch", 3), torch.float32),)
    outputs = (TensorSpec("y", ("batch", 3), torch.float32),)
    graphable = False

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return [inputs[0] * self.factor]

    def bound(self, inputs: Sequence[Tensor]) -> Callable[[], object]:
        return lambda: self(inputs)


@dataclass(frozen=True)
class ToyBackend(Backend):
    """Runs a number.

    Attributes:
        here: whether this machine has what it takes.
    """

    here: bool = True

    def found(self) -> str:
        return "1.0, counts on fingers"

    @contextmanager
    def opened(self, source: Program | str, kind: FileKind, options: RunnerOptions) -> Iterator[Runner]:
        del kind, options
        if not self.here:
            raise EnvironmentLackError("There are no fingers here.", "Use an abacus.")
        yield Multiplier(float(Path(str(source)).read_text()))


TOY = ToyBackend("toy", "Toy", (NUMBER,), install="pip install toy", enables="models that are a number")
