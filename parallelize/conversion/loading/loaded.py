"""A network as a module: called with the original's arguments by name, it returns what the original returned.

    with parallelize.load("out") as model:
        logits = model(input_ids=ids, attention_mask=mask)

Outputs are on the device of the first argument, wherever the network runs; arrays are on the CPU. Several threads may
call at once. It was captured in evaluation and stays in it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from parallelize.conversion.loading.interface import Interface
from parallelize.conversion.loading.origin import Origin
from parallelize.conversion.result import Result
from parallelize.data.tensor_spec import TensorSpec
from parallelize.models.program import Program
from passes.errors import ParallelizeError
from passes.plan import Plan

if TYPE_CHECKING:
    from typing_extensions import Self

Move = Callable[[Tensor], Tensor]  # what `nn.Module.to` and its like do to a tensor


class Loaded(nn.Module, ABC):
    """A network that can be called.

    Attributes:
        interface: how.
        origin: where it came from.
    """

    def __init__(self, interface: Interface, origin: Origin) -> None:
        super().__init__()
        self.interface, self.origin = interface, origin
        self.training = False

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What it reads, in order: names, shapes and dtypes."""
        return self.interface.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What it returns, in order."""
        return self.interface.outputs

    @property
    def plan(self) -> Plan | None:
        """What the model was rewritten by; None where that is not known."""
        return self.origin.plan

    @property
    def report(self) -> Result | None:
        """What the conversion found; None where that is not known."""
        return self.origin.report

    @property
    @abstractmethod
    def artefact(self) -> Program | str:
        """What `compare` and `bench` run: the program, or the file with the backend behind an @."""

    @property
    @abstractmethod
    def backend(self) -> str:
        """What runs it, by its name."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where it runs."""

    @property
    @abstractmethod
    def is_closed(self) -> bool:
        """Whether what it held was freed."""

    @abstractmethod
    def close(self) -> None:
        """Free what it holds: weights, a session, an engine."""

    @abstractmethod
    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs, anywhere, of inputs in order, anywhere."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run on tensors or arrays, by place or by name.

        Returns:
            A tensor, a tuple or a dictionary by names, as the original did.

        Raises:
            InputError: what was given does not fit; see `parallelize.conversion.loading.interface`.
            ParallelizeError: it is closed.
        """
        if self.is_closed:
            raise closed(self.interface.label)
        values = self.interface.bound(args, kwargs)
        home = values[0].device
        return self.interface.returned.packed([value.to(home) for value in self.run(values)])

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation.

        Raises:
            ParallelizeError: training is asked for; dropout and batch statistics were captured as they are without.
        """
        if mode:
            raise ParallelizeError(
                f"{self.interface.label} was captured in evaluation and cannot be put into training mode.",
                "Heal it with `parallelize.heal`, or train it as it is: gradients flow without dropout.",
            )
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        where = "closed" if self.is_closed else f"{self.backend} on {self.device}"
        file = "made in memory" if self.origin.file is None else str(self.origin.file)
        known = [part for part in (self.origin.model, self.origin.depth, where) if part and part != file]
        return f"<{', '.join(known)}, {file}>"


def closed(label: str) -> ParallelizeError:
    """What is said of a network that was closed and is used all the same."""
    return ParallelizeError(f"{label} is closed.", "Use it inside its `with` block, or load it again.")


def target_of(move: Move, device: torch.device, dtypes: Sequence[torch.dtype], label: str) -> torch.device:
    """Where `nn.Module.to` and its like move tensors.

    Raises:
        ParallelizeError: they change dtypes, which are written into the graph.
    """
    probes = [move(torch.empty(0, dtype=dtype, device=device)) for dtype in dict.fromkeys([torch.float32, *dtypes])]
    if [probe.dtype for probe in probes] != list(dict.fromkeys([torch.float32, *dtypes])):
        raise ParallelizeError(
            f"{label} keeps the dtypes that it was captured in.", "Convert the model with --precision fp16 or bf16."
        )
    return probes[0].device
