"""Fuse the branches of a sum into single wide operations, exactly.

    x + W_1 g(A_1 n(x)) + ... + W_N g(A_N n(x))   ->   x + [W_1 .. W_N] g([A_1; ..; A_N] n(x))

Cases:
    1. branches of equal structure that read the same values: normalisation once with gains and shifts folded into the
       linears, in-projections side by side on their output axis, attention with N times the heads, out-projections
       side by side on their input axis, so that the sum over branches is inside the GEMM;
    2. branches of different structure (attention beside MLP, an affine term beside either): each group as in 1, then
       one out-projection over the concatenated features of all groups.

Refused, each with its reason: a branch that does not end in a linear, an operator without a wide form, branches whose
values would mix. A group that is refused stays as it is; the rest of the sum is fused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from passes import operators as ops
from passes.dataflow import canonical_walk, carries_tensors, same_shape, tensor_value
from passes.infra import Pass, PassResult, Skip
from passes.layout import CannotLiftError
from passes.lift import Branches, Lifter, Part
from passes.parameters import add_parameter
from passes.stacks import structure


@dataclass(frozen=True)
class _Branch:
    """One summand that nothing else reads, with what it alone computes."""

    output: fx.Node
    nodes: tuple[fx.Node, ...]
    inner: frozenset[fx.Node]
    lines: tuple[str, ...]


@dataclass(frozen=True)
class FuseWidth(Pass):
    """Fuse parallel branches that end in one sum into single wide operations."""

    name: ClassVar[str] = "fuse-width"
    exact: ClassVar[bool] = True

    def apply(self, module: fx.GraphModule) -> PassResult:
        """See the module's docstring."""
        matches: list[str] = []
        skipped: list[Skip] = []
        for root in [node for node in module.graph.nodes if _is_sum(node) and not _is_inside_sum(node)]:
            summands = _summands(root)
            branches = [branch for node in summands if (branch := _branch(node)) is not None]
            if len(branches) < 2:
                continue
            line, reasons = _fuse_sum(module, root, summands, branches)
            skipped.extend(reasons)
            if line:
                matches.append(line)
        return PassResult(tuple(matches), tuple(skipped))


def _is_sum(node: fx.Node) -> bool:
    """A plain add of two tensors of its own shape."""
    value = tensor_value(node)
    if node.op != "call_function" or node.target not in ops.ADDS or node.kwargs or value is None:
        return False
    operands = [tensor_value(arg) if isinstance(arg, fx.Node) else None for arg in node.args]
    return value.is_floating_point() and all(v is not None and same_shape(v, value) for v in operands)


def _is_inside_sum(node: fx.Node) -> bool:
    users = list(node.users)
    return len(users) == 1 and _is_sum(users[0])


def _summands(root: fx.Node) -> list[fx.Node]:
    """The operands of a tree of adds, left to right."""
    found: list[fx.Node] = []
    pending = [root]
    while pending:
        node = pending.pop()
        if node is root or (_is_sum(node) and _is_inside_sum(node)):
            pending.extend(arg for arg in reversed(node.args) if isinstance(arg, fx.Node))
        else:
            found.append(node)
    return found


def _branch(output: fx.Node) -> _Branch | None:
    """What only this summand needs, or None if the summand is read elsewhere or holds no matrix product."""
    if output.op != "call_function" or len(output.users) != 1:
        return None
    inner = {output}
    pending = [output]
    while pending:
        for source in pending.pop().all_input_nodes:
            private = source.op == "call_function" and carries_tensors(source) and set(source.users) <= inner
            if private and source not in inner:
                inner.add(source)
                pending.append(source)
    if not any(ops.gemms(node) for node in inner):  # such as the embeddings of words and positions
        return None
    nodes = tuple(canonical_walk(output, inner.__contains__))
    lines = tuple(structure(nodes, frozenset(inner), None))
    return _Branch(output, nodes, frozenset(inner), lines)


def _fuse_sum(
    module: fx.GraphModule, root: fx.Node, summands: Sequence[fx.Node], branches: Sequence[_Branch]
) -> tuple[str, list[Skip]]:
    """Replace the fusible branches of one sum; a line that says what was fused, and reasons for the rest."""
    groups: dict[tuple[str, ...], list[_Branch]] = {}
    for branch in branches:
        groups.setdefault(branch.lines, []).append(branch)
    norms: dict[Any, fx.Node] = {}
    parts: list[Part] = []
    fused: list[_Branch] = []
    skipped: list[Skip] = []
    for group in groups.values():
        lifter = Lifter(module, _aligned(group), root, norms)
        try:
            parts.append(lifter.lift())
        except CannotLiftError as error:
            skipped.extend(Skip(branch.output.name, str(error)) for branch in group)
            continue
        norms = lifter.norms
        fused.extend(group)
    if len(fused) < 2:
        return "", skipped
    with module.graph.inserting_before(root):
        total = _combine(module, root, parts)
        gone = {branch.output for branch in fused}
        for summand in summands:
            if summand not in gone:
                total = module.graph.call_function(ops.ADD, (summand, total))
    total.meta.update(root.meta)  # sums further down look at shapes
    root.replace_all_uses_with(total)
    counts = ", ".join(f"{len(group)} x {group[0].output.name}" for group in groups.values() if group[0] in fused)
    return f"{root.name}: {counts}", skipped


def _aligned(group: Iterable[_Branch]) -> Branches:
    members = list(group)
    return Branches(tuple(branch.nodes for branch in members), frozenset().union(*(b.inner for b in members)))


def _combine(module: fx.GraphModule, root: fx.Node, parts: Sequence[Part]) -> fx.Node:
    """One linear over the features of all parts."""
    features = parts[0].features
    if len(parts) > 1:
        features = module.graph.call_function(ops.aten.cat.default, ([part.features for part in parts], -1))
    weight = add_parameter(module, "wide_weight", torch.cat([part.weight for part in parts], 1), root)
    biases = [part.bias for part in parts if part.bias is not None]
    bias = add_parameter(module, "wide_bias", torch.stack(biases).sum(0), root) if biases else None
    return module.graph.call_function(ops.LINEAR, (features, weight, bias))
