"""Write every product with a stored matrix as one linear.

    addmm(b, x, W)   mm(x, W)   matmul(x, W)   linear(x, transpose(W'))   matmul(x, W) + b    ->   linear(x, W^T, b)

Cases:
    1. the matrix is stored, as it is or behind transpositions; the linear reads a transposed view of it, not a copy;
    2. views that flatten the leading dimensions before an addmm and restore them after it go (the Conv1D of GPT-2);
    3. an add of a stored vector right after a linear without bias becomes its bias.

Refused, each with its reason: addmm with factors, a bias that is no vector over the columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, fx

from passes.graph import operators as ops
from passes.graph.dataflow import tensor_value
from passes.graph.parameters import read_parameter, store_parameter
from passes.runner import Pass, PassResult, Skip, Stage

aten = ops.aten

_TRANSPOSES = frozenset({aten.t.default, aten.transpose.int, aten.permute.default, aten.numpy_T.default})
_PRODUCTS = frozenset({aten.mm.default, aten.matmul.default})


@dataclass(frozen=True)
class NormalizeLinears(Pass):
    """Write addmm, mm and matmul with a stored matrix, and biases added later, as linears."""

    name: ClassVar[str] = "normalize-linears"
    exact: ClassVar[bool] = True
    stage: ClassVar[Stage] = "clean"
    after: ClassVar[tuple[str, ...]] = ("drop-empty-masks",)

    def apply(self, module: fx.GraphModule) -> PassResult:
        """See the module's docstring."""
        matches: list[str] = []
        skipped: list[Skip] = []
        for node in list(module.graph.nodes):
            if node.op != "call_function":
                continue
            if node.target == aten.addmm.default:
                outcome = _addmm(module, node)
            elif node.target in _PRODUCTS:
                outcome = _product(module, node)
            elif node.target == ops.LINEAR:
                outcome = _linear(module, node)
            elif node.target == ops.ADD:
                outcome = _bias(node)
            else:
                continue
            if isinstance(outcome, Skip):
                skipped.append(outcome)
            elif outcome:
                matches.append(node.name)
        return PassResult(tuple(matches), tuple(skipped))


def _stored_matrix(module: fx.GraphModule, argument: object) -> Tensor | None:
    """The matrix behind an argument, transpositions of a stored one applied; None where it is computed."""
    orders: list[fx.Node] = []
    node = argument
    while isinstance(node, fx.Node) and node.target in _TRANSPOSES:
        orders.append(node)
        node = node.args[0]
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    matrix = read_parameter(module, node)
    for order in reversed(orders):
        matrix = order.target(matrix, *order.args[1:])  # type: ignore[operator]
    return matrix if matrix.ndim == 2 else None


def _addmm(module: fx.GraphModule, node: fx.Node) -> Skip | bool:
    bias, source, matrix = node.args[0], node.args[1], _stored_matrix(module, node.args[2])
    if matrix is None:
        return False
    if any(node.kwargs.get(factor, 1) != 1 for factor in ("alpha", "beta")):
        return Skip(node.name, f"{node.name} multiplies its operands by {dict(node.kwargs)}")
    value = tensor_value(bias) if isinstance(bias, fx.Node) else None
    shape = None if value is None else [str(size) for size in value.shape]  # comparing free sizes would fix them
    if shape != [str(matrix.shape[1])]:
        described = "unknown" if shape is None else f"[{', '.join(shape)}]"
        return Skip(node.name, f"{node.name} adds {bias} of shape {described}, which is no vector over its columns")
    _replace(module, node, source, matrix.T, bias)
    return True


def _product(module: fx.GraphModule, node: fx.Node) -> Skip | bool:
    source, matrix = node.args[0], _stored_matrix(module, node.args[1])
    value = tensor_value(source) if isinstance(source, fx.Node) else None
    if matrix is None or value is None or value.ndim < 2:
        return False
    _replace(module, node, source, matrix.T, None)
    return True


def _linear(module: fx.GraphModule, node: fx.Node) -> bool:
    """A linear whose weight is a transposed parameter reads the transposed parameter itself."""
    weight = node.args[1]
    matrix = _stored_matrix(module, weight)
    if matrix is None or not isinstance(weight, fx.Node) or weight.op == "get_attr":
        return False
    node.update_arg(1, store_parameter(module, "linear_weight", matrix, node))
    return True


def _replace(module: fx.GraphModule, node: fx.Node, source: object, weight: Tensor, bias: object) -> None:
    """Put a linear in the place of a product."""
    stored = store_parameter(module, "linear_weight", weight, node)
    with module.graph.inserting_before(node):
        linear = module.graph.call_function(ops.LINEAR, (source, stored, bias))  # type: ignore[arg-type]
    linear.meta.update(node.meta)
    node.replace_all_uses_with(linear)
    module.graph.erase_node(node)
    _drop_views(linear)


def _drop_views(linear: fx.Node) -> None:
    """view(linear(view(x, [-1, k])), [*x.shape[:-1], m]) is linear(x)."""
    view = linear.args[0]
    if not isinstance(view, fx.Node) or view.target not in ops.VIEWS or not isinstance(view.args[0], fx.Node):
        return
    source, before, result = view.args[0], tensor_value(view.args[0]), tensor_value(linear)
    if before is None or result is None or str(before.shape[-1]) != str(tensor_value(view).shape[-1]):  # type: ignore[union-attr]
        return
    wanted = [str(size) for size in (*before.shape[:-1], result.shape[-1])]
    users = list(linear.users)
    shapes = [tensor_value(user) for user in users]
    if not users or not all(user.target in ops.VIEWS for user in users):
        return
    if not all(shape is not None and [str(size) for size in shape.shape] == wanted for shape in shapes):
        return
    linear.update_arg(0, source)
    linear.meta["val"] = shapes[0]
    for user in users:
        user.replace_all_uses_with(linear)
        linear.graph.erase_node(user)


def _bias(node: fx.Node) -> bool:
    """linear(x, W) + b with a stored vector b."""
    linears = [a for a in node.args if isinstance(a, fx.Node) and a.target == ops.LINEAR]
    vectors = [a for a in node.args if isinstance(a, fx.Node) and a.op == "get_attr"]
    if len(linears) != 1 or len(vectors) != 1 or node.kwargs or len(linears[0].users) > 1:
        return False
    linear, vector = linears[0], vectors[0]
    value, shape = tensor_value(vector), tensor_value(linear)
    has_bias = len(linear.args) > 2 and linear.args[2] is not None
    if has_bias or value is None or shape is None or tuple(value.shape) != tuple(shape.shape[-1:]):
        return False
    if value.dtype != shape.dtype:
        return False
    if vector > linear:  # get_attr nodes mostly come first
        linear.prepend(vector)
    linear.args = (*linear.args[:2], vector)
    node.replace_all_uses_with(linear)
    node.graph.erase_node(node)
    _drop_views(linear)
    return True
