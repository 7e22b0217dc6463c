"""Fuse the branches of a sum into single wide operations, exactly.

    x + W_1 g(A_1 n(x)) + ... + W_N g(A_N n(x))   ->   x + [W_1 .. W_N] g([A_1; ..; A_N] n(x))

Cases:
    1. branches of equal structure that read the same values: normalisation once with gains and shifts folded into the
       linears, in-projections side by side on their output axis, attention with N times the heads, convolutions with
       the channels of all branches, out-projections side by side on their input axis, so that the sum over branches is
       inside the product;
    2. chains of terms, which have private states: from there on batched matrix products and grouped convolutions;
    3. branches that do not end in a product, as in post-norm terms: the sum over branches comes last;
    4. branches of different structure (attention beside MLP, an affine term beside either): each group as above, then
       one out-projection over the concatenated features of all groups;
    5. branches of equal structure that are concatenated or stacked instead of summed;
    6. operators without a wide form: they run branch by branch, the products around them are fused.

Refused, each with its reason: random values, branches of which nothing would become fewer. A group that is refused
stays as it is; the rest of the sum is fused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import fx

from passes import operators as ops
from passes.branches import Branch, find_branches
from passes.contraction import Contraction, Part, Summed, float64_sum, replay
from passes.dataflow import positions, tensor_value
from passes.differences import difference
from passes.infra import Pass, PassResult, Skip
from passes.layout import Apart, CannotLiftError, Lifted, Wide
from passes.lift import Branches, Lifter
from passes.lift_shapes import shape_of
from passes.parameters import add_parameter
from passes.relayout import materialised, moved, stacked
from passes.shapes import complete_shapes
from passes.sums import Sum, expand, find_roots, stack_of

aten = ops.aten

GATHERS = frozenset({aten.cat.default, aten.stack.default})


@dataclass(frozen=True)
class FuseWidth(Pass):
    """Fuse parallel branches that end in one sum or concatenation into single wide operations.

    Attributes:
        dry: say what would be fused and leave the graph as it is.
    """

    dry: bool = False
    name: ClassVar[str] = "fuse-width"
    exact: ClassVar[bool] = True

    def apply(self, module: fx.GraphModule) -> PassResult:
        """See the module's docstring."""
        matches: list[str] = []
        skipped: list[Skip] = []
        place: dict[fx.Node, float] = dict(positions(module.graph))
        roots = set(find_roots(module))
        pending = [node for node in reversed(module.graph.nodes) if node in roots or _is_gather(node)]
        while pending:
            root = pending.pop()
            if root in roots:
                line, reasons = _fuse_sum(module, expand(module, root, place), place, dry=self.dry)
            else:
                line, reasons = _fuse_gather(module, root, place, dry=self.dry)
            new = _placed(root, place)
            if any(node.target in GATHERS for node in new):  # features of groups that share an out-projection
                complete_shapes(module, new)
                pending.extend(node for node in reversed(new) if node.target in GATHERS)
            skipped.extend(reasons)
            if line:
                matches.append(line)
        return PassResult(tuple(matches), tuple(skipped))


def _is_gather(node: fx.Node) -> bool:
    """A concatenation, or a stack whose values are not added up."""
    return node.target in GATHERS and not any(stack_of(user) is node for user in node.users)


def _placed(root: fx.Node, place: dict[fx.Node, float]) -> list[fx.Node]:
    """Give the nodes inserted before `root` places between its own and the one before; these nodes in order."""
    new: list[fx.Node] = []
    node = root.prev
    while node.op != "root" and node not in place:
        new.append(node)
        node = node.prev
    place.update({node: place[root] - (number + 1) / (len(new) + 1) for number, node in enumerate(new)})
    return new[::-1]


def _fuse_sum(
    module: fx.GraphModule, found: Sum, place: Mapping[fx.Node, float], *, dry: bool
) -> tuple[str, list[Skip]]:
    """Replace the fusible branches of one sum; a line that says what was fused, and reasons for the rest."""
    root, terms = found.root, found.terms
    groups = find_branches(list(terms), found.tree, place, found.states)
    if sum(len(group) * len(group[0].outputs) for group in groups) < 2:
        return "", []
    shared: dict[Any, fx.Node] = {}
    lifted: list[_Lifted] = []
    skipped: list[Skip] = []
    for group in groups:
        lifter = Lifter(module, _aligned(group, terms), root, shared)
        try:
            lifted.append((group, lifter, lifter.lift()))
        except CannotLiftError as error:
            skipped.extend(Skip(output.name, str(error)) for branch in group for output in branch.outputs)
    lifted, abandoned = _parted(lifted)
    for _, lifter, _ in reversed([*lifted, *abandoned] if dry else abandoned):
        lifter.abandon()
    if len(terms) > sum(len(group) * len(group[0].outputs) for group in groups):  # they add to a state
        skipped.extend(_alone(groups, lifted))
    line = f"{root.name}: {', '.join(_named(group, lifter) for group, lifter, _ in lifted)}" if lifted else ""
    if dry or not lifted:
        return line, skipped
    parts = [part for _, _, fused in lifted for part in fused]
    for _, lifter, _ in lifted:
        lifter.commit()
    gone = {output for group, _, _ in lifted for branch in group for output in branch.outputs}
    rest = [(value, factor) for value, factor in terms.items() if value not in gone]
    with module.graph.inserting_before(root):
        total = _added(module, [*rest, *((node, 1.0) for node in _combined(module, root, parts))])
    _replace(root, total)
    return line, skipped


_Lifted = tuple[list[Branch], Lifter, tuple[Part, ...]]


def _parted(lifted: Sequence[_Lifted]) -> tuple[list[_Lifted], list[_Lifted]]:
    """What is worth keeping, and what is not."""
    worth = [_is_worth(entry, lifted) for entry in lifted]
    kept = [entry for entry, keep in zip(lifted, worth, strict=True) if keep]
    return kept, [entry for entry, keep in zip(lifted, worth, strict=True) if not keep]


def _is_worth(entry: _Lifted, lifted: Sequence[_Lifted]) -> bool:
    """Whether anything gets fewer: several branches in the group, or a product that it shares with another group."""
    group, _, parts = entry
    if len(group) > 1:
        return True
    others = {p.key for other in lifted if other is not entry for p in other[2] if isinstance(p, Contraction)}
    return any(isinstance(part, Contraction) and part.key in others for part in parts)


def _alone(groups: Sequence[list[Branch]], lifted: Sequence[_Lifted]) -> list[Skip]:
    """For each branch that is fused with no other, how it differs from the one that is most like it."""
    fused = {id(group) for group, _, _ in lifted}
    alone = [group[0] for group in groups if len(group) == 1 and id(group) not in fused]
    skipped: list[Skip] = []
    for branch in alone:
        others = [group[0] for group in groups if group[0] is not branch]
        if not others:
            continue
        other = max(others, key=lambda o: len(set(o.lines) & set(branch.lines)))
        what = difference(branch.nodes, branch.lines, other.nodes, other.lines)
        reason = f"{branch.outputs[0].name} is not computed as {other.outputs[0].name} is: {what}"
        skipped.extend(Skip(output.name, reason) for output in branch.outputs)
    return skipped


def _named(group: Sequence[Branch], lifter: Lifter) -> str:
    apart = f" ({', '.join(node.name for node in lifter.apart)} in each branch)" if lifter.apart else ""
    return f"{len(group)} x {' + '.join(output.name for output in group[0].outputs)}{apart}"


def _aligned(group: Sequence[Branch], terms: Mapping[fx.Node, float]) -> Branches:
    factors = tuple(tuple(terms.get(output, 1.0) for output in branch.outputs) for branch in group)
    return Branches(
        tuple(branch.nodes for branch in group),
        tuple(branch.outputs for branch in group),
        frozenset().union(*(branch.inner for branch in group)),
        factors if any(factor != 1 for each in factors for factor in each) else (),
    )


def _added(module: fx.GraphModule, terms: Iterable[tuple[fx.Node, float]]) -> fx.Node:
    """The sum of values times factors, of which one at least is 1."""
    call = module.graph.call_function
    (total, _), *rest = sorted(terms, key=lambda term: term[1] != 1)
    for value, factor in rest:
        if abs(factor) == 1:
            total = call(ops.ADD if factor == 1 else aten.sub.Tensor, (total, value))
        else:
            total = call(ops.ADD, (total, call(aten.mul.Tensor, (value, factor))))
    return total


def _replace(root: fx.Node, total: fx.Node) -> None:
    total.meta.update(root.meta)  # sums further down look at shapes
    root.replace_all_uses_with(total)


def _combined(module: fx.GraphModule, root: fx.Node, parts: Sequence[Part]) -> list[fx.Node]:
    """The parts as nodes to add: one product over the features of all parts that can share it."""
    alike: dict[Any, list[Contraction]] = {}
    for part in parts:
        if isinstance(part, Contraction):
            alike.setdefault(part.key, []).append(part)
    sums = [part.node for part in parts if isinstance(part, Summed)]
    return [*(_product(module, root, found) for found in alike.values()), *sums]


def _product(module: fx.GraphModule, root: fx.Node, parts: Sequence[Contraction]) -> fx.Node:
    first = parts[0]
    is_linear = first.target == ops.LINEAR
    features = first.features
    if len(parts) > 1:
        features = module.graph.call_function(
            aten.cat.default, ([part.features for part in parts], -1 if is_linear else 1)
        )
    weights = [part.weight() for part in parts]
    weight = add_parameter(module, "wide_weight", torch.cat(weights, 1) if len(weights) > 1 else weights[0], root)
    biases = [part.bias() for part in parts if part.bias is not None]
    bias = add_parameter(module, "wide_bias", float64_sum(biases), root) if biases else None
    node = module.graph.call_function(first.target, (features, weight, bias, *first.settings))
    return replay(module, first.tail, node)


# concatenations -----------------------------------------------------------------------------------------------------


def _fuse_gather(
    module: fx.GraphModule, root: fx.Node, place: Mapping[fx.Node, float], *, dry: bool
) -> tuple[str, list[Skip]]:
    """Replace the fusible branches of one concatenation or stack."""
    members = [member for member in cast("Sequence[Any]", root.args[0]) if isinstance(member, fx.Node)]
    if len(members) < 2 or len(members) != len(set(members)) or any(tensor_value(m) is None for m in members):
        return "", []
    lines: list[str] = []
    skipped: list[Skip] = []
    shared: dict[Any, fx.Node] = {}
    for group in find_branches(members, {root}, place):
        if len(group) < 2:
            continue
        lifter = Lifter(module, _aligned(group, {}), root, shared)
        try:
            values = lifter.lift_values()
        except CannotLiftError as error:
            skipped.extend(Skip(output.name, str(error)) for branch in group for output in branch.outputs)
            continue
        lines.append(_named(group, lifter))
        if dry:
            lifter.abandon()
            continue
        for number, value in enumerate(values):
            _gather(lifter, root, [branch.outputs[number] for branch in group], value)
        lifter.commit()
    return (f"{root.name}: {', '.join(lines)}" if lines else ""), skipped


def _gather(lifter: Lifter, root: fx.Node, outputs: Sequence[fx.Node], value: Lifted) -> None:
    """Let a concatenation read the wide value: as it is where nothing else stands between the branches."""
    members = list(cast("list[fx.Node]", root.args[0]))
    if isinstance(value, Apart):
        pieces = dict(zip(outputs, value.nodes, strict=True))
        root.update_arg(0, [pieces.get(member, member) for member in members])
        return
    value = materialised(lifter, value, outputs[0], shape_of(outputs[0]))
    first = members.index(outputs[0])
    if isinstance(value, Wide) and root.target == aten.cat.default and members[first:][: len(outputs)] == outputs:
        rank = len(value.shape)
        dim = (cast("int", root.args[1]) if len(root.args) > 1 else 0) % rank - rank
        members[first : first + len(outputs)] = [moved(lifter, value, dim, 1).node]
    else:
        pieces = dict(zip(outputs, _pieces(lifter, outputs[0], value), strict=True))
        members = [pieces.get(member, member) for member in members]
    if len(members) == 1:
        members[0].meta.update(root.meta)
        root.replace_all_uses_with(members[0])
        return
    root.update_arg(0, members)


def _pieces(lifter: Lifter, output: fx.Node, value: Lifted) -> list[fx.Node]:
    """Each branch's value again, cut out of the wide one."""
    if not isinstance(value, Wide):
        return [lifter.node(value, output)] * lifter.count
    unbound = lifter.emit(aten.unbind.int, (stacked(lifter, value), 0))
    return [lifter.emit(ops.GETITEM, (unbound, number)) for number in range(lifter.count)]
