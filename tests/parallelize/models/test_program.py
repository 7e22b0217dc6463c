"""A program: names of free dimensions, results in the order of its outputs, the module that it came from."""

from __future__ import annotations

import sys
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from parallelize.data.tensor_spec import TensorSpec
from parallelize.models.capture import capture
from parallelize.models.program import Program, original_of, plain, unique
from passes.errors import PassError


class Net(nn.Module):
    def forward(self, x: Tensor, extra: dict[str, Tensor], double: bool = False) -> dict[str, Any]:
        sys.stdout.write("running")
        if x.shape[0] != extra["bias"].shape[0]:
            raise ValueError("no")
        y = torch.cat([x, x], 1) + extra["bias"]
        return {"y": 2 * y if double else y, "count": 3, "x": x}


@pytest.fixture(scope="module")
def program() -> Program:
    args = (torch.zeros(1, 4), {"bias": torch.zeros(1, 8)})
    return capture(
        Net().eval(), args, {"double": True}, dynamic=[{0: "rows", 1: "width"}, {0: "rows", 1: "2*width"}], origin="net"
    )


def test_a_value_has_the_names_of_the_inputs_in_its_shape(program: Program) -> None:
    shapes = {node.name: program.shape(node.meta["val"]) for node in program.module.graph.find_nodes(op="placeholder")}
    assert list(shapes.values()) == [("rows", "width"), ("rows", "2*width")]
    (cat,) = (node for node in program.module.graph.nodes if "cat" in node.name)
    assert program.shape(cat.meta["val"]) == ("rows", "2*width")
    assert program.shape(torch.zeros(3, 2)) == (3, 2)


def test_results_are_flat_in_the_order_of_the_outputs_whatever_container_they_come_in(program: Program) -> None:
    Pair = namedtuple("Pair", "y x")  # noqa: PYI024
    a, b = torch.zeros(1), torch.ones(1)
    for result in ({"y": a, "x": b}, [a, None, (b,)], Pair(a, b), {"y": a, "count": 3, "x": b}):
        assert program.flat_outputs(result) == (a, b)
    with pytest.raises(PassError, match=r"^net returned 1 tensors where 2 were captured\.$"):
        program.flat_outputs(a)


def test_the_original_runs_on_the_inputs_of_the_program_and_prints_nothing_on_the_output(
    program: Program, capfd: pytest.CaptureFixture[str]
) -> None:
    assert program.original is not None
    inputs = (torch.rand(3, 4), torch.rand(3, 8))
    result = program.original(inputs)
    assert result is not None
    assert all(torch.equal(*pair) for pair in zip(result, program.module(*inputs).values(), strict=True))
    assert program.original((torch.rand(3, 4), torch.rand(2, 8))) is None
    assert capfd.readouterr().out == ""


def test_an_original_whose_tensors_are_not_the_inputs_is_not_called() -> None:
    x, ids = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    leaves, structure = torch.utils._pytree.tree_flatten(((x,), {"ids": ids}))
    specs = [TensorSpec("x", (2, 3), torch.float32), TensorSpec("ids", (2,), torch.int64)]
    module = nn.Identity()
    assert original_of(module, leaves, structure, specs) is not None
    for others in (specs[:1], specs[::-1], [specs[0], TensorSpec("ids", (2,), torch.int32)]):
        assert original_of(module, leaves, structure, others) is None


def test_dataclasses_inside_of_anything_become_dictionaries() -> None:
    @dataclass
    class Inner:
        value: Any

    assert plain([Inner({"a": Inner(1)}), 2]) == [{"value": {"a": {"value": 1}}}, 2]
    assert plain(Inner) is Inner


def test_a_name_that_is_taken_gets_the_next_free_number() -> None:
    assert unique("x", ()) == "x"
    assert unique("x", ("x",)) == "x_1"
    assert unique("x", ("x", "x_1", "x_3")) == "x_2"
