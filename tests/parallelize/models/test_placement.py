"""A graph on another device."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from parallelize.machine.device import CPU
from parallelize.models.capture import capture
from parallelize.models.placement import device_of, on_device, placed
from parallelize.models.program import Program
from passes.graph.editing import clone, finish
from passes.graph.outputs import flat_outputs
from passes.graph.parameters import is_learned, read_parameter
from tests.parallelize.other_device import other_device

X = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


class Ramp(nn.Module):
    """Tied weights, a constant, and tensors made of nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
        self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 3)
        self.last.weight = self.first.weight
        self.register_buffer("shift", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.gain + torch.arange(x.shape[1], device=x.device) + self.shift
        return self.last(self.first(x)) + torch.zeros(3)


def ramp() -> Program:
    torch.manual_seed(0)
    return capture(Ramp().eval(), (torch.zeros(2, 3),), origin="ramp")


@pytest.fixture
def there() -> Iterator[torch.device]:
    with other_device() as device:
        yield device


def test_a_graph_moves_with_the_tensors_that_it_makes() -> None:
    module = ramp().module
    (moved,) = flat_outputs(on_device(module, torch.device("meta")), (torch.zeros(4, 3, device="meta"),))
    assert (moved.device.type, moved.shape) == ("meta", (4, 3))
    assert flat_outputs(module, (torch.zeros(4, 3),))[0].device.type == "cpu"


def test_a_program_goes_to_a_device_and_back_and_computes_the_same(there: torch.device) -> None:
    program = ramp()
    moved = placed(program, there)
    (ours,) = flat_outputs(moved.module, [X.to(there)])
    (theirs,) = flat_outputs(program.module, [X])
    assert (ours.device, device_of(moved.module)) == (there, there)
    assert torch.allclose(ours.cpu(), theirs)
    back = placed(moved, CPU)
    assert device_of(back.module) == CPU
    assert torch.allclose(flat_outputs(back.module, [X])[0], theirs)


def test_example_values_and_what_is_learned_move_along_so_that_passes_go_on(there: torch.device) -> None:
    program = ramp()
    moved = placed(program, there).module
    stored = [(node.name, is_learned(program.module, node)) for node in program.module.graph.find_nodes(op="get_attr")]
    assert [(node.name, is_learned(moved, node)) for node in moved.graph.find_nodes(op="get_attr")] == stored
    finished = finish(clone(moved))
    values = [node.meta["val"] for node in finished.graph.nodes if isinstance(node.meta.get("val"), Tensor)]
    assert {value.device for value in values} == {there}


def test_what_shares_memory_does_so_there(there: torch.device) -> None:
    moved = placed(ramp(), there).module
    tensors = [read_parameter(moved, node) for node in moved.graph.find_nodes(op="get_attr")]
    places = [tensor.data_ptr() for tensor in tensors if tensor.shape == (3, 3)]
    assert len(set(places)) == 1


def test_a_program_that_is_there_stays_the_same_object() -> None:
    program = ramp()
    assert placed(program, CPU) is program
