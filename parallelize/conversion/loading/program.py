"""A program in torch itself: a module with parameters, gradients and a state dict, on any device.

It moves with the tensors that its graph makes out of nothing and with the devices that were captured in it. Pickled it
is an archive of torch.export with the weights that it has then, so that a module which was trained or moved comes back
as it was.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch.fx._lazy_graph_module import _LazyGraphModule

from parallelize.conversion.loading.interface import Interface
from parallelize.conversion.loading.loaded import Loaded, Move, closed, target_of
from parallelize.conversion.loading.origin import Origin
from parallelize.machine.device import CPU
from parallelize.machine.quiet import quiet_logs
from parallelize.models.capture import from_exported
from parallelize.models.placement import device_of, follow, placed
from parallelize.models.program import Program
from parallelize.models.returned import Returned
from parallelize.models.saving import archived

if TYPE_CHECKING:
    from typing_extensions import Self


class LoadedProgram(Loaded):
    """A captured network, run eagerly.

    Attributes:
        network: its graph, which holds the weights; None when it is closed.
    """

    network: fx.GraphModule | None

    def __init__(self, program: Program, origin: Origin, device: torch.device) -> None:
        label = origin.model
        super().__init__(Interface(label, program.inputs, program.outputs, Returned.of(program)), origin)
        program = placed(replace(program, original=None), device)
        _LazyGraphModule.force_recompile(program.module)  # not in the first call, which several threads may make
        self._program: Program | None = program
        self.network = program.module

    @property
    def program(self) -> Program:
        """The captured network, its weights as they are now: for the other calls of this package."""
        assert self._program is not None
        return self._program

    @property
    def artefact(self) -> Program:
        """What `compare` and `bench` run."""
        return self.program

    @property
    def backend(self) -> str:
        """PyTorch."""
        return "torch"

    @property
    def device(self) -> torch.device:
        """Where its inputs are expected."""
        return CPU if self.network is None else device_of(self.network)

    @property
    def is_closed(self) -> bool:
        """Whether the weights were let go."""
        return self.network is None

    def close(self) -> None:
        """Let the weights go."""
        self.network = self._program = None

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Run the graph, with gradients where they are on."""
        assert self.network is not None
        device = self.device
        return list(self.program.flat_outputs(self.network(*(value.to(device) for value in inputs))))

    def _apply(self, fn: Move, recurse: bool = True) -> Self:
        if self.network is None:
            return self
        dtypes = [tensor.dtype for tensor in self.state_dict().values()]
        device = target_of(fn, self.device, dtypes, self.interface.label)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch does not annotate it
        follow(self.network, device)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self.network is None:
            raise closed(self.interface.label)
        return _unpickled, (archived(placed(self.program, CPU)), self.origin, str(self.device))


def _unpickled(archive: bytes, origin: Origin, device: str) -> LoadedProgram:
    with quiet_logs():
        program = from_exported(torch.export.load(io.BytesIO(archive)), origin.model)
    return LoadedProgram(program, origin, torch.device(device))
