"""The backends `torch` and `torch-compile`: a program as captured, run eagerly or compiled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parallelize.backends.backend import PROGRAM, Backend, FileKind
from parallelize.machine.findings import package_version

if TYPE_CHECKING:
    from torch import nn

    from parallelize.backends.runner import Runner
    from parallelize.backends.runner_options import RunnerOptions
    from parallelize.models.program import Program


@dataclass(frozen=True)
class Torch(Backend):
    """PyTorch runs a program.

    Attributes:
        compiles: whether through torch.compile.
    """

    compiles: bool = False

    def found(self) -> str:
        """The version of PyTorch."""
        return package_version("torch")

    @contextmanager
    def opened(self, source: Program | str | nn.Module, kind: FileKind, options: RunnerOptions) -> Iterator[Runner]:
        """Capture, and run on the device of the options."""
        from parallelize.backends.torch.compiled import Compiled
        from parallelize.backends.torch.eager import Eager
        from parallelize.machine.device import choose_device
        from parallelize.models.acceptance import refuse_any_random
        from parallelize.models.prepare import captured

        del kind  # there is one only
        device = choose_device(options.device)
        program = captured(options.loading(source))
        refuse_any_random(program)
        yield (Compiled if self.compiles else Eager)(program, device)


TORCH = Torch("torch", "PyTorch", (PROGRAM,), install="pip install torch")
TORCH_COMPILE = Torch(
    "torch-compile", "torch.compile", (PROGRAM,), install="pip install torch", hides="compiled", compiles=True
)
