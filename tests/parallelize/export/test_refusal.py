"""What has no ONNX form is told by its operator and its place, whatever the exporter says of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import fx, nn

from parallelize.data.tensor_spec import TensorSpec
from parallelize.export.refusal import unwritable
from parallelize.models.program import Program
from passes.errors import ParallelizeError

PLACE = {"stack_trace": 'File "lib.py", line 3, in f\n  y\nFile "net.py", line 7, in forward\n  x.j0()\n'}
MODULES = {"nn_module_stack": {"a": ("", nn.Module), "b": ("blocks.1", nn.Module)}}


def program() -> Program:
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(torch.ops.aten.special_bessel_j0.default, (x,), name="bessel"))
    specs = (TensorSpec("x", (2,), torch.float32),)
    return Program(fx.GraphModule(nn.Module(), graph), specs, specs, "net.pt2")


def lowered(target: Any, **meta: Any) -> fx.Node:
    """A node of the exporter's last graph."""
    graph = fx.Graph()
    made = graph.call_function(target, (graph.placeholder("x"),))
    made.meta.update(meta)
    return made


def refused(text: str, *nodes: object) -> ParallelizeError:
    """The refusal of an error that was raised within functions that work on these nodes, the innermost last."""

    def work(node: object, *inner: object) -> None:
        if inner:
            work(*inner)
        raise RuntimeError(text)

    try:
        work(*nodes)
    except RuntimeError as error:
        return unwritable(error, program())
    raise AssertionError


def test_an_operator_without_a_function_is_named_with_module_and_line() -> None:
    node = lowered(torch.ops.aten.special_bessel_j0.default, **PLACE, **MODULES)
    error = refused("No ONNX function found for <OpOverload(...)>. More.", node)
    assert str(error) == "The operator aten.special_bessel_j0 in blocks.1 (net.py:7) of net.pt2 has no ONNX form."
    assert error.hint == "Write that part of the model with other operators."


def test_what_the_operator_became_and_any_other_reason_are_told() -> None:
    node = lowered(torch.ops.prims.bessel_j0.default, from_node=[SimpleNamespace(name="bessel")])
    error = refused("\x1b[31mno such dtype.\x1b[0m\nSee the log", node)
    assert str(error) == (
        "The operator aten.special_bessel_j0 of net.pt2 has no ONNX form (as prims.bessel_j0): no such dtype."
    )


def test_the_innermost_node_counts_and_values_that_are_no_operators_do_not() -> None:
    outer, inner = (lowered(target) for target in (torch.ops.aten.add.Tensor, torch.ops.aten.erfinv.default))
    inputs = fx.Graph().placeholder("x")
    assert str(refused("no", outer, inner, inputs, "text")).startswith("The operator aten.erfinv of net.pt2 ")


def test_the_node_is_looked_for_in_what_an_error_was_raised_from() -> None:
    def convert(node: fx.Node) -> None:
        raise ValueError("not implemented")

    try:
        try:
            convert(lowered(torch.ops.aten.erfinv.default))
        except ValueError as cause:
            raise RuntimeError("Failed to convert. See above") from cause
    except RuntimeError as error:
        told = unwritable(error, program())
    assert str(told) == "The operator aten.erfinv of net.pt2 has no ONNX form: not implemented."


@pytest.mark.parametrize(("text", "why"), [("all\n is lost", "all"), ("", "RuntimeError")])
def test_without_a_node_the_first_line_is_told(text: str, why: str) -> None:
    error = refused(text, "text")
    assert str(error) == f"net.pt2 cannot be written as ONNX: {why}."
    assert error.hint == "Run with --debug to see where."
