"""Find where half precision would change more than the last digits.

    y / (sum(y) + 1e-9)        float16(1e-9) = 0: a row of zeros becomes NaN
    table[int(4000 x)]         float16 has 11 digits: half of the rows are others

Cases:
    1. an operator with a number that the dtype rounds to 0, written or stored alone; with what follows through light
       operators and reductions up to the first that reads two computed values: the quotient, or the product with the
       reciprocal. The least normal number in its place would be no guard: it makes x * 1e-9 60,000 times as large and
       log(0 + 1e-9) half of what it is;
    2. what becomes an integer (a conversion, a rounding, a place: argmax, topk, bucketize), back through light
       operators and reductions;
    3. what is compared, if it is computed from inputs and constants in that way alone.

Left out: the epsilon of a norm operator, which no implementation rounds to half precision; products, which are what is
to be cast, and residual sums, which are chosen by their size (`apart`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import fx

from passes.graph import operators as ops
from passes.graph.dataflow import carries_tensors, is_float, tensors_of
from passes.graph.parameters import read_parameter
from passes.graph.written_out import LIGHT, SHAPE_ONLY

aten = ops.aten

_OF_FIRST = SHAPE_ONLY | {aten.expand_as.default, aten.view_as.default, aten.type_as.default}
_FILLED = frozenset({aten.full_like.default, aten.zeros_like.default, aten.ones_like.default})
_REDUCTIONS = ops.REDUCTIONS | {
    aten.sum.default,
    aten.mean.default,
    aten.max.default,
    aten.min.default,
    aten.cumsum.default,
}
_ROUNDINGS = frozenset(
    {
        aten.floor.default,
        aten.ceil.default,
        aten.round.default,
        aten.round.decimals,
        aten.trunc.default,
        aten.floor_divide.default,
        aten.remainder.Scalar,
        aten.remainder.Tensor,
        aten.fmod.Scalar,
        aten.fmod.Tensor,
        aten.div.Tensor_mode,
        aten.div.Scalar_mode,
    }
)
_OWN_EPSILON = ops.NORMS | {aten.instance_norm.default, aten.native_layer_norm.default}
_NUMBERS = ("number", "Optional[number]", "float", "Optional[float]", "Tensor", "Optional[Tensor]")


def guarded(module: fx.GraphModule, half: torch.dtype) -> dict[fx.Node, str]:
    """Case 1 of the module's docstring: each operator with its reason, as the end of a sentence."""
    name = str(half).removeprefix("torch.")
    constants: set[fx.Node] = set()
    reasons: dict[fx.Node, str] = {}
    carried: set[fx.Node] = set()
    for node in module.graph.nodes:
        if _is_constant(node, constants):
            constants.add(node)
        if node.op != "call_function":
            continue
        sources = _sources(node)
        number = next(_vanishing(module, node, half), None)
        if number is not None:
            reasons[node] = f"has the number {number:g}, which {name} rounds to 0"
        elif _is_light(node) and not carried.isdisjoint(sources):
            reasons[node] = f"may read a value that {name} rounds to 0"
        else:
            continue
        if is_float(node) and sum(source not in constants for source in sources) < 2:
            carried.add(node)
    return reasons


def become_integers(graph: fx.Graph, apart: Collection[fx.Node]) -> dict[fx.Node, str]:
    """Cases 2 and 3 of the module's docstring: each operator with its reason; what is `apart` is not walked through."""
    given = _given(graph, apart)
    integers: set[fx.Node] = set()
    compared: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op != "call_function" or node.target in _FILLED:
            continue
        if _makes_integers(node):
            _add_with_sources(node, integers, apart)
        elif _compares(node) and given.issuperset(_sources(node)):
            _add_with_sources(node, compared, apart)
    return dict.fromkeys(compared, "is compared") | dict.fromkeys(integers, "becomes an integer")


def _is_constant(node: fx.Node, constants: Collection[fx.Node]) -> bool:
    if node.op != "call_function" or node.target in _FILLED:
        return node.op != "placeholder"
    return all(source in constants for source in node.all_input_nodes if carries_tensors(source))


def _sources(node: fx.Node) -> list[fx.Node]:
    """The floating-point values that a node reads, without those of which it reads the shape alone."""
    if node.target in _FILLED:
        return []
    sources: Sequence[object] = node.args[:1] if node.target in _OF_FIRST else node.all_input_nodes
    return [source for source in sources if isinstance(source, fx.Node) and is_float(source)]


def _is_light(node: fx.Node) -> bool:
    if node.target in LIGHT | _OF_FIRST | _REDUCTIONS:
        return True
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags


def _vanishing(module: fx.GraphModule, node: fx.Node, half: torch.dtype) -> Iterator[float]:
    """The numbers of an operator, and the tensors of one element that it reads, that `half` rounds to 0."""
    stored = [source for source in node.all_input_nodes if source.op == "get_attr" and is_float(source)]
    values = [read_parameter(module, source) for source in stored]
    numbers = [*_numbers(node), *(value.item() for value in values if value.numel() == 1 and not value.is_complex())]
    return (number for number in numbers if number != 0 and torch.tensor(number, dtype=half) == 0)


def _numbers(node: fx.Node) -> list[float]:
    """The floating-point numbers among the arguments, defaults too."""
    if node.target in _OWN_EPSILON:
        return []
    if not isinstance(node.target, torch._ops.OpOverload):
        return [value for value in node.args if isinstance(value, float)]
    arguments = node.target._schema.arguments
    values = [
        node.args[place] if place < len(node.args) else node.kwargs.get(argument.name, argument.default_value)
        for place, argument in enumerate(arguments)
        if str(argument.type) in _NUMBERS
    ]
    return [value for value in values if isinstance(value, float)]


def _given(graph: fx.Graph, apart: Collection[fx.Node]) -> set[fx.Node]:
    """Inputs and constants, and what light operators compute from them alone."""
    given: set[fx.Node] = set()
    for node in graph.nodes:
        computed = node.op == "call_function"
        if not computed or (_is_light(node) and node not in apart and given.issuperset(_sources(node))):
            given.add(node)
    return given


def _makes_integers(node: fx.Node) -> bool:
    if node.target in _ROUNDINGS:
        return is_float(node)
    dtypes = {tensor.dtype for tensor in tensors_of(node)} - {torch.bool}
    return bool(_sources(node)) and any(not dtype.is_floating_point and not dtype.is_complex for dtype in dtypes)


def _compares(node: fx.Node) -> bool:
    return bool(_sources(node)) and any(tensor.dtype == torch.bool for tensor in tensors_of(node))


def _add_with_sources(node: fx.Node, found: set[fx.Node], apart: Collection[fx.Node]) -> None:
    """Add what a node reads through light operators; the node too, unless it reads only what is cast."""
    sources = _sources(node)
    pending = list(sources)
    while pending:
        value = pending.pop()
        if value.op != "call_function" or value in found or value in apart or not _is_light(value):
            continue
        found.add(value)
        pending.extend(_sources(value))
    if any(source in found or source.op == "placeholder" for source in sources):
        found.add(node)
