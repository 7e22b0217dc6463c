"""A graph on another device."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from parallelize.models.capture import capture
from parallelize.models.placement import on_device
from passes.graph.outputs import flat_outputs


def test_a_graph_moves_with_the_tensors_that_it_makes() -> None:
    class Ramp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.gain + torch.arange(x.shape[1], device=x.device)

    module = capture(Ramp().eval(), (torch.zeros(2, 3),), origin="ramp").module
    (moved,) = pytree_tensors(on_device(module, torch.device("meta"))(torch.zeros(4, 3, device="meta")))
    assert (moved.device.type, moved.shape) == ("meta", (4, 3))
    assert flat_outputs(module, (torch.zeros(4, 3),))[0].device.type == "cpu"


def pytree_tensors(value: object) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
