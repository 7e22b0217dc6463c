"""The ranks that share the branches of a model, and what goes from one to the others, gradients included.

DTensor does it: `Replicate` is a state that all have, `Partial` a sum of which each has a part, `Shard(0)` the ends of
branches, of which each has some.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard


class Row:
    """A row of ranks; copies of a model have the same one."""

    def __init__(self, mesh: DeviceMesh) -> None:
        self.mesh = mesh

    def __deepcopy__(self, memo: object) -> Row:
        return self

    def read(self, x: Tensor) -> Tensor:
        """A state that all have, for the own branches: their gradients of it are summed up."""
        read: Tensor = DTensor.from_local(x, self.mesh, [Replicate()], run_check=False).to_local(
            grad_placements=[Partial()]
        )
        return read

    def summed(self, part: Tensor) -> Tensor:
        """The sum of what each has."""
        return _everywhere(DTensor.from_local(part, self.mesh, [Partial()], run_check=False))

    def gathered(self, ends: Tensor, count: int) -> Tensor:
        """The ends of all branches, in their order, of those of each rank."""
        shape = torch.Size([count, *ends.shape[1:]])
        stride = torch.empty(shape, device="meta").stride()
        return _everywhere(DTensor.from_local(ends, self.mesh, [Shard(0)], run_check=False, shape=shape, stride=stride))


def _everywhere(value: DTensor) -> Tensor:
    whole = value.redistribute(placements=[Replicate()])
    return whole.to_local(grad_placements=[Replicate()])
