"""What a term computes, by its operators and not by its name.

- attention: scaled_dot_product_attention, or two products of activations and a softmax
- convolution: a convolution that reads more than one pixel
- mlp: two or more products with weights: linear, addmm, a product with a stored matrix, a 1x1 convolution
- attention+mlp: a sum of an attention and an MLP, as in GPT-J, where x + attention(n x) + mlp(n x)
- other: anything else
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from torch import fx

from passes.graph import operators as ops
from passes.graph.dataflow import is_stored, same_shape, tensor_inputs, tensor_value
from passes.stacks.terms import Kind

_PRODUCTS = ops.MATRIX_PRODUCTS | {ops.aten.baddbmm.default}
_PASS_ON = ops.COPIES | ops.VIEWS | {ops.aten.dropout.default, ops.aten.to.dtype, ops.aten.to.dtype_layout}


def kind_of(outputs: Sequence[fx.Node], region: Sequence[fx.Node]) -> Kind:
    """The kind of a term.

    Args:
        outputs: what the term adds to the state, mostly one node.
        region: the nodes between the state and `outputs`, these included.
    """
    inner = frozenset(region)
    summands = [summand for output in outputs for summand in _summands(output, inner)]
    kinds = {_kind(_needed(summand, inner), inner) for summand in summands}
    return "attention+mlp" if kinds == {"attention", "mlp"} else _kind(region, inner)


def _summands(output: fx.Node, inner: Collection[fx.Node]) -> Iterator[fx.Node]:
    """The operands of the sum that the term ends in; dropout and changes of shape are looked through."""
    pending = [output]
    while pending:
        node = pending.pop()
        sources = [source for source in node.all_input_nodes if source in inner]
        if node.target in _PASS_ON and len(sources) == 1:
            pending.append(sources[0])
        elif node.target in ops.ADDS and len(sources) == 2 and _same_shapes(sources):
            pending.extend(sources)
        else:
            yield node


def _same_shapes(nodes: Sequence[fx.Node]) -> bool:
    left, right = (tensor_value(node) for node in nodes)
    return left is not None and right is not None and same_shape(left, right)


def _needed(node: fx.Node, inner: Collection[fx.Node]) -> list[fx.Node]:
    """The inner nodes that `node` is computed from, itself included."""
    found = {node}
    pending = [node]
    while pending:
        for source in pending.pop().all_input_nodes:
            if source in inner and source not in found:
                found.add(source)
                pending.append(source)
    return list(found)


def _kind(region: Sequence[fx.Node], inner: Collection[fx.Node]) -> Kind:
    targets = {node.target for node in region}
    products = [node for node in region if node.target in _PRODUCTS]
    stored = [node for node in products if not _multiplies_activations(node, inner)]
    if ops.ATTENTION in targets or (len(products) - len(stored) >= 2 and not ops.SOFTMAXES.isdisjoint(targets)):
        return "attention"
    convolutions = [node for node in region if node.target in ops.CONVOLUTIONS]
    if any(not _is_pointwise(node) for node in convolutions):
        return "convolution"
    linears = [node for node in region if node.target in ops.LINEARS]
    if len(linears) + len(stored) + len(convolutions) >= 2:
        return "mlp"
    return "convolution" if convolutions else "other"


def _multiplies_activations(product: fx.Node, inner: Collection[fx.Node]) -> bool:
    """Whether no factor is a stored weight: what a weight is computed from is stored, whatever happens to it."""
    return not any(is_stored(source) for source in tensor_inputs(product) if source not in inner)


def _is_pointwise(convolution: fx.Node) -> bool:
    weight = convolution.args[1]
    value = tensor_value(weight) if isinstance(weight, fx.Node) else None
    return value is not None and all(size == 1 for size in value.shape[2:])
