"""The inner weights of a term: the linears that read its state, or the norm of it.

    in(h) = W h + c,    h = norm(x), or x where no norm is before them

A term that runs beside others does not read what it read in training. Where that is better foretold as h + A h + b, the
guess becomes part of the inner weights at no cost:

    W (h + A h + b) + c  =  (W + W A) h + (c + W b)

The shift b is left out where a linear has no bias, so that terms alike stay alike and can be fused.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx

from passes.graph import operators as ops
from passes.graph.parameters import has_stored_weights, read_parameter, replace_parameter
from passes.stacks.terms import Term


@dataclass(frozen=True)
class InProjection:
    """Where a term reads.

    Attributes:
        source: h, the norm of the state or the state, features on the last axis.
        readers: all linears of the term that read it.
        has_bias: whether each of them has a bias.
    """

    source: fx.Node
    readers: tuple[fx.Node, ...]

    @property
    def has_bias(self) -> bool:
        """Whether a shift can be part of every reader."""
        return all(len(reader.args) > 2 and isinstance(reader.args[2], fx.Node) for reader in self.readers)


def in_projection(term: Term, state: fx.Node) -> InProjection | str:
    """Where `term` reads `state` in a graph; a reason in words where its inner weights cannot take in a guess.

    Args:
        term: a term of the graph.
        state: the node that it reads there.
    """
    source = state
    readers = _readers(term, state)
    if len(readers) == 1 and readers[0].target in ops.ROW_NORMS:
        source = readers[0]
        readers = _readers(term, source)
    for reader in readers:
        if reader.target != ops.LINEAR or reader.args[0] is not source:
            return f"{source.name} is read by {reader.name}, which is {reader.target} and not a linear layer"
        if not has_stored_weights(reader):
            return f"the weights of {reader.name} are computed and not stored"
    return InProjection(source, readers) if readers else f"no linear layer of the term reads {source.name}"


def _readers(term: Term, node: fx.Node) -> tuple[fx.Node, ...]:
    return tuple(user for user in node.users if user in term.inner)


def take_in(module: fx.GraphModule, place: InProjection, matrix: Tensor, shift: Tensor | None) -> None:
    """Let the inner weights read h + matrix h + shift, for h the source.

    Args:
        module: the graph, edited in place; whoever shares the weights keeps the old ones.
        place: a term's inner weights.
        matrix: (features, features).
        shift: (features,), or None.
    """
    for reader in place.readers:
        weight_node, *bias_nodes = [arg for arg in reader.args[1:] if isinstance(arg, fx.Node)]
        weight = read_parameter(module, weight_node)
        exact = weight.double()
        replace_parameter(module, reader, 1, "read_in_weight", (exact + exact @ matrix.double()).to(weight.dtype))
        if shift is not None and bias_nodes:
            bias = read_parameter(module, bias_nodes[0])
            moved = (bias.double() + exact @ shift.double()).to(bias.dtype)
            replace_parameter(module, reader, 2, "read_in_bias", moved)
