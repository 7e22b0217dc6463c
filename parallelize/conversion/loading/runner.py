"""A file in what runs it, such as ONNX Runtime or TensorRT: a module without parameters of its own.

The file stays the one place of its weights. Moved to another device it is opened there anew; pickled it is the way to
the file, which the other process opens by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from parallelize.backends.backend import Backend, FileKind
from parallelize.backends.runner import Runner
from parallelize.backends.runner_options import RunnerOptions
from parallelize.conversion.loading.interface import Interface
from parallelize.conversion.loading.loaded import Loaded, Move, closed, target_of
from parallelize.conversion.loading.origin import Origin
from parallelize.machine.device import CPU
from parallelize.models.program import Program
from parallelize.models.returned import Returned
from passes.errors import ParallelizeError

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Opening:
    """How a file is opened.

    Attributes:
        source: the file, or the program in it.
        kind: of the file.
        backend: that runs it.
        options: of the backend.
        elsewhere: loads it again for another device, by its name; None is where it was asked for, in another process.
    """

    source: Program | str
    kind: FileKind
    backend: Backend
    options: RunnerOptions
    elsewhere: Callable[[str | None], LoadedRunner]


class LoadedRunner(Loaded):
    """A network that a backend runs."""

    def __init__(self, opening: Opening, interface: Interface | None, origin: Origin) -> None:
        """Open a file; None is an interface that only what runs it tells."""
        held = ExitStack()
        runner = held.enter_context(opening.backend.opened(opening.source, opening.kind, opening.options))
        super().__init__(interface or _told_by(runner, origin.model), origin)
        self._opening, self._held = opening, held
        self._runner: Runner | None = runner

    @property
    def artefact(self) -> str:
        """What `compare` and `bench` run."""
        return f"{self.origin.file}@{self.backend}"

    @property
    def backend(self) -> str:
        """The name of the backend."""
        return self._opening.backend.name

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return CPU if self._runner is None else self._runner.device

    @property
    def is_closed(self) -> bool:
        """Whether session or engine were freed."""
        return self._runner is None

    def close(self) -> None:
        """Free session or engine."""
        self._runner = None
        self._held.close()

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Run it; no gradients flow."""
        if self._runner is None:
            raise closed(self.interface.label)
        return self._runner([value.detach() for value in inputs])

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Nothing, as a part of another module.

        Raises:
            ParallelizeError: its own weights are asked for, which the file holds.
        """
        if args or kwargs.get("destination") is not None:
            return super().state_dict(*args, **kwargs)
        raise ParallelizeError(
            f"{self.backend} keeps the weights of {self.interface.label} in its own form.",
            'Load it with backend="torch" for a state dict.',
        )

    def _apply(self, fn: Move, recurse: bool = True) -> Self:  # noqa: ARG002  # there are no tensors to recurse to
        device = target_of(fn, CPU, (), self.interface.label)
        if self._runner is not None and device.type != self.device.type:
            other = self._opening.elsewhere(device.type)
            self.close()
            self._opening, self._held, self._runner = other._opening, other._held, other._runner
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self._runner is None:
            raise closed(self.interface.label)
        return self._opening.elsewhere, (None,)


def _told_by(runner: Runner, label: str) -> Interface:
    """The interface of a file that says nothing of it; that free sizes of two inputs are one is not known then."""
    shapes = (
        tuple(size if isinstance(size, int) else f"{spec.name}_{axis}" for axis, size in enumerate(spec.shape))
        for spec in runner.inputs
    )
    inputs = tuple(replace(spec, shape=shape) for spec, shape in zip(runner.inputs, shapes, strict=True))
    return Interface(label, inputs, runner.outputs, Returned.named([spec.name for spec in runner.outputs]))
