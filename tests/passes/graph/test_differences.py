"""The sentence that says where two computations part."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.graph.dataflow import canonical_walk
from passes.graph.differences import difference
from passes.stacks.find import structure
from tests.passes.models import WIDTH, Function, fixed_graph_of, normal, randomised, tokens


def _said(left: Callable[..., Tensor], right: Callable[..., Tensor]) -> str:
    """How the first of two outputs of a model differs from the second."""
    parts: dict[str, nn.Module | Tensor] = {
        "a": nn.Linear(WIDTH, WIDTH),
        "b": nn.Linear(WIDTH, WIDTH),
        "c": nn.Linear(WIDTH, 3),
        "gain": normal(WIDTH),
    }
    graph = fixed_graph_of(randomised(Function(lambda s, x: (left(s, x), right(s, x)), **parts)), tokens())
    output = next(iter(graph.graph.find_nodes(op="output")))
    first, second = (_walked(node) for node in output.args[0])
    return difference(*first, *second)


def _walked(output: fx.Node) -> tuple[list[fx.Node], list[str]]:
    nodes = canonical_walk(output, lambda node: node.op == "call_function")
    return nodes, list(structure(nodes, frozenset(n for n in nodes if n.op == "call_function"), None))


DIFFERENT = {
    "operators": (
        lambda s, x: torch.sin(s.a(x)),
        lambda s, x: torch.cos(s.b(x)),
        "sin is aten.sin.default, cos is aten.cos.default",
    ),
    "shapes of parameters": (
        lambda s, x: s.a(x),
        lambda s, x: s.c(x),
        "a.weight is [8, 8] float64, c.weight is [3, 8] float64",
    ),
    "a number": (
        lambda s, x: s.a(x) * 2.0,
        lambda s, x: s.b(x) * 3.0,
        "mul (aten.mul.Tensor) has 2.0, not 3.0 as mul_1 has",
    ),
    "an option that only one has": (
        lambda s, x: torch.add(s.a(x), x, alpha=2),
        lambda s, x: torch.add(s.b(x), x),
        "add (aten.add.Tensor) has 2, not nothing as add_1 has",
    ),
    "an option that only the other has": (
        lambda s, x: F.gelu(s.a(x)),
        lambda s, x: F.gelu(s.b(x), approximate="tanh"),
        "gelu (aten.gelu.default) has nothing, not tanh as gelu_1 has",
    ),
    "a value where the other has a number": (
        lambda s, x: torch.clamp(s.a(x), min=-1.0),
        lambda s, x: torch.clamp(s.b(x), max=1.0),
        "clamp (aten.clamp.default) has -1.0, not None as clamp_1 has",
    ),
    "the order of values": (
        lambda s, x: s.a(x) - x,
        lambda s, x: x - s.b(x),
        "sub and sub_1 read values in another order",
    ),
    "one operator more": (
        lambda s, x: torch.sin(s.a(x)),
        lambda s, x: s.b(x),
        "only one of them has sin",
    ),
    "one operator less": (
        lambda s, x: s.a(x),
        lambda s, x: torch.sin(s.b(x)),
        "only one of them has sin",
    ),
    "a parameter where the other has a value": (
        lambda s, x: torch.sin(x) * s.gain,
        lambda s, x: torch.sin(x) * x,
        "it reads gain, the other mul_1",
    ),
    "nothing": (lambda s, x: s.a(x), lambda s, x: s.b(x), "nowhere"),
}


@pytest.mark.parametrize(("left", "right", "sentence"), DIFFERENT.values(), ids=DIFFERENT.keys())
def test_the_first_difference_is_named_with_both_values(
    left: Callable[..., Tensor], right: Callable[..., Tensor], sentence: str
) -> None:
    assert _said(left, right) == sentence


def test_a_line_without_a_node_is_quoted() -> None:
    assert difference([], ["output 3"], [], ["output 4"]) == "it ends in output 3, the other in output 4"
