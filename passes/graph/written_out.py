"""Find norms and softmaxes that a model spells out operator by operator.

    rms norm      x * rsqrt(mean(x^2) + eps)
    layer norm    (x - mean(x)) * rsqrt(mean((x - mean(x))^2) + eps),  or with var(x)
    softmax       exp(x - max(x)) / sum(exp(x - max(x)))

Cases: the square as pow, a product with itself or `square`; rsqrt, a division by sqrt, or powers of 1/2 and -1/2. The
gain and the shift that follow are not part of what is found. Not found: a norm whose statistics pass through an
operator that is neither pointwise nor a reduction or a view.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from passes.graph import operators as ops
from passes.graph.dataflow import positions, region_between, tensor_inputs

aten = ops.aten

SHAPE_ONLY = ops.VIEWS | frozenset(
    {
        aten.transpose.int,
        aten.permute.default,
        aten.unsqueeze.default,
        aten.squeeze.dim,
        aten.expand.default,
        aten.slice.Tensor,
        aten.select.int,
        aten.flatten.using_ints,
        aten.unflatten.int,
        aten.split.Tensor,
        aten.split.sizes,
        aten.split_with_sizes.default,
        aten.chunk.default,
        aten.unbind.int,
        aten.clone.default,
        aten.contiguous.default,
        aten.alias.default,
        aten.detach.default,
        aten.detach_.default,
        aten.lift_fresh_copy.default,
        ops.GETITEM,
    }
)
LIGHT = SHAPE_ONLY | ops.ELEMENTWISE | ops.DROPOUTS | {aten.cat.default, aten.stack.default}

_STATISTICS = ops.REDUCTIONS | {aten.var.dim}
_ROOTS = frozenset({aten.rsqrt.default, aten.sqrt.default})
_SCALINGS = frozenset({aten.mul.Tensor, aten.div.Tensor, ops.MULTIPLY})
_SQUARES = frozenset({aten.pow.Tensor_Scalar, aten.mul.Tensor, aten.square.default, aten.abs.default})
_SHIFTS = frozenset({aten.sub.Tensor, aten.sub.Scalar})


def written_out_norms(graph: fx.Graph) -> set[fx.Node]:
    """The nodes of every norm that is spelled out, from the statistics to the product with 1 / spread."""
    place = positions(graph)
    found: set[fx.Node] = set()
    for root in graph.nodes:
        statistic = _first_reduction(root) if _is_root(root) else None
        scaled = _scaling(root) if statistic is not None else None
        if statistic is None or scaled is None:
            continue
        source = _centred(_unsquared(statistic))
        region = region_between(source, scaled, place)
        if all(node.target in LIGHT | _STATISTICS for node in region):
            found.update(region)
    return found


def written_out_softmaxes(graph: fx.Graph) -> set[fx.Node]:
    """The nodes of every softmax that is spelled out, from the largest value to the quotient."""
    place = positions(graph)
    found: set[fx.Node] = set()
    for quotient in graph.find_nodes(op="call_function", target=aten.div.Tensor):
        exponential, *total = tensor_inputs(quotient)
        if exponential.target != aten.exp.default or not total or _first_reduction(total[0]) not in exponential.users:
            continue
        exponent = next(tensor_inputs(exponential))
        source = next(tensor_inputs(exponent)) if exponent.target in _SHIFTS else exponent
        found.update(region_between(source, quotient, place))
    return found


def _is_root(node: fx.Node) -> bool:
    if node.target == aten.pow.Tensor_Scalar:
        return node.args[1] in (0.5, -0.5)
    return node.target in _ROOTS


def _first_reduction(node: fx.Node) -> fx.Node | None:
    """The reduction that a value is made of by operators of one tensor, or None."""
    while node.target not in _STATISTICS:
        sources = list(tensor_inputs(node))
        if len(sources) != 1 or node.target not in LIGHT:
            return None
        node = sources[0]
    return node


def _scaling(root: fx.Node) -> fx.Node | None:
    """The product or quotient that brings the spread to another tensor, or None."""
    node = root
    while len(node.users) == 1:
        node = next(iter(node.users))
        if len(list(tensor_inputs(node))) == 2:
            return node if node.target in _SCALINGS else None
        if node.target not in LIGHT:
            return None
    return None


def _unsquared(statistic: fx.Node) -> fx.Node:
    """What is squared before it is averaged; the value itself where the statistic squares."""
    node = next(tensor_inputs(statistic))
    sources = list(tensor_inputs(node))
    return sources[0] if node.target in _SQUARES and len(sources) == 1 else node


def _centred(node: fx.Node) -> fx.Node:
    """x, where the node is x - mean(x); else the node."""
    if node.target not in _SHIFTS:
        return node
    left, *right = list(_operands(node))
    return left if right and _first_reduction(right[0]) in left.users else node


def _operands(node: fx.Node) -> Iterator[fx.Node]:
    return (arg for arg in node.args if isinstance(arg, fx.Node))
