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
    6. operators without a wide form: they run branch by branch, the products around them are fused;
    7. values from outside that differ between the branches, such as the conditioning of adaLN: they are stacked, and
       where nothing else reads them, computed side by side too (passes/fusion/sides.py).

Refused, each with its reason: random values, branches of which nothing would become fewer. A group that is refused
stays as it is; the rest of the sum is fused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from passes.fusion.branches import Branch, find_branches
from passes.fusion.contraction import Contraction, Part, Summed, total
from passes.fusion.emitter import Emitter
from passes.fusion.gathers import fuse_gather, is_gather
from passes.fusion.groups import aligned, described, outputs_of, refused
from passes.fusion.layout import CannotLiftError
from passes.fusion.lift import Lifter
from passes.fusion.shape_changes import replay
from passes.fusion.sides import fuse_sides
from passes.fusion.sums import Sum, expand, find_roots
from passes.fusion.weights import float64_sum
from passes.graph import operators as ops
from passes.graph.dataflow import positions
from passes.graph.differences import difference
from passes.graph.editing import erase_unread, restore_order
from passes.graph.parameters import add_parameter
from passes.graph.shapes import complete_shapes
from passes.graph.weighted_sum import weighted_sum
from passes.runner import Pass, PassResult, Skip, Stage

aten = ops.aten


@dataclass(frozen=True)
class FuseWidth(Pass):
    """Fuse parallel branches that end in one sum or concatenation into single wide operations.

    Attributes:
        dry: say what would be fused and leave the graph as it is.
    """

    dry: bool = False
    name: ClassVar[str] = "fuse-width"
    exact: ClassVar[bool] = True
    stage: ClassVar[Stage] = "fuse"

    def apply(self, module: fx.GraphModule) -> PassResult:
        """See the module's docstring."""
        return _Fusion(module, dry=self.dry).run()


class _Fusion:
    """The sums and concatenations of a graph while they are fused, in the order of execution.

    A sum is looked at again as long as branches are fused in it that leave others: two that are computed once may be
    like a third.
    """

    def __init__(self, module: fx.GraphModule, *, dry: bool) -> None:
        self.module, self.dry = module, dry
        self.place: dict[fx.Node, float] = dict(positions(module.graph))
        self.roots = find_roots(module)
        self.pending = [n for n in reversed(module.graph.nodes) if self.roots.get(n) is n or is_gather(n)]
        self.sides: list[fx.Node] = []  # stacks of what branches read

    def run(self) -> PassResult:
        """Fuse them all."""
        done = PassResult()
        while self.pending:
            root = self.pending.pop()
            if not root.users:
                continue
            if root in self.roots:
                done += self._sum(root)
            else:
                done += fuse_gather(self.module, root, self.place, dry=self.dry)
                self._settle(root)
        return done + PassResult(fuse_sides(self.module, self.sides, self.place))

    def _sum(self, root: fx.Node) -> PassResult:
        """Fuse the branches of one sum until none become alike by it.

        Nothing is done where they are among those of another that is still to come.
        """
        found = expand(self.module, root, self.place)
        if any(_holds(expand(self.module, other, self.place), found) for other in _read_by(found, self.roots)):
            return PassResult()
        done, total = self._round(found)
        while total is not None:
            more, total = self._round(expand(self.module, total, self.place))
            done = _then(done, more) if more.changed else done
        return done

    def _round(self, found: Sum) -> tuple[PassResult, fx.Node | None]:
        """Fuse what can be fused in a sum; the sum that takes its place, where it is to be looked at again."""
        result, sides, total = _fuse_sum(self.module, found, self.place, dry=self.dry)
        self.sides += sides
        self._settle(found.root)
        if found.tapped and result.changed:  # what read these values may stand before them
            restore_order(self.module)
            self.place = dict(positions(self.module.graph))
        return result, total

    def _settle(self, root: fx.Node) -> None:
        """Give what was inserted its place and shapes; find what branches of it meet."""
        new = _placed(root, self.place)
        complete_shapes(self.module, new)
        # features of groups that share an out-projection
        self.pending.extend(node for node in reversed(new) if is_gather(node) and node not in self.sides)
        erase_unread(root)


def _then(done: PassResult, more: PassResult) -> PassResult:
    """What two rounds did to the branches that were there before the first."""
    present, seen = set(done.present), set(more.present)
    skipped = [skip for skip in done.skipped if skip.node not in seen]
    return PassResult(
        done.matches + more.matches,
        (*skipped, *(skip for skip in more.skipped if skip.node in present)),
        done.present,
        (*done.changed, *(name for name in more.changed if name in present)),
    )


def _read_by(found: Sum, roots: Mapping[fx.Node, fx.Node]) -> set[fx.Node]:
    """Other sums that add values of this one."""
    readers = {roots.get(reader) for taps in found.tapped.values() for reader in taps}
    return {root for root in readers if root is not None and root is not found.root and root.users}


def _holds(larger: Sum, found: Sum) -> bool:
    """Whether one sum has all branches of another and more."""
    return found.terms.keys() - found.states < larger.terms.keys() - larger.states


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
) -> tuple[PassResult, list[fx.Node], fx.Node | None]:
    """Replace the fusible branches of one sum.

    Returns:
        what was fused with reasons for the rest, stacks of what the branches read, and the new sum where others of its
        branches may be alike now.
    """
    root, terms = found.root, found.terms
    groups = find_branches(list(terms), found.tree, place, found.states, found.tapped)
    if not _are_side_by_side(found, groups):
        return PassResult(), [], None
    shared: dict[Any, fx.Node] = {}
    lifted: list[_Lifted] = []
    skipped: list[Skip] = []
    for group in groups:
        lifter = Lifter(Emitter(module, aligned(group, terms, found.tapped), root, shared))
        try:
            lifted.append((group, lifter, lifter.lift()))
        except CannotLiftError as error:
            skipped.extend(refused(group, error))
    lifted, abandoned = _parted(lifted, found.held)
    for _, lifter, _ in reversed([*lifted, *abandoned] if dry else abandoned):
        lifter.emitter.abandon()
    skipped.extend(_held_back(root, abandoned, found.held))
    skipped.extend(_alone(root, groups, [group for group, *_ in abandoned if len(group) == 1]))
    line = (
        f"{root.name}: {', '.join(described(group, lifter.emitter) for group, lifter, _ in lifted)}" if lifted else ""
    )
    present, changed = outputs_of(groups), outputs_of(group for group, *_ in lifted)
    result = PassResult((line,) if line else (), tuple(skipped), present, changed)
    if dry or not lifted:
        return result, [], None
    parts = [part for _, _, each in lifted for part in each]
    for _, lifter, _ in lifted:
        lifter.emitter.commit()
    rest = [(value, factor) for value, factor in terms.items() if value.name not in changed]
    with module.graph.inserting_before(root):
        value = weighted_sum(module, [*rest, *((node, 1.0) for node in _combined(module, root, parts))])
    _replace(root, value)
    for node, again in [tap for _, lifter, _ in lifted for tap in lifter.taps.items()]:
        for reader in found.tapped.get(node, ()):
            reader.replace_input_with(node, again)
    sides = [side for _, lifter, _ in lifted for side in lifter.sides]
    return result, sides, value if any(len(group) == 1 for group in groups) or skipped else None


def _are_side_by_side(found: Sum, groups: Sequence[Sequence[Branch]]) -> bool:
    """Whether the sum has branches: several, and equal ones among them or on one state, not two paths that meet."""
    ends = sum(len(branch.outputs) for group in groups for branch in group)
    adds_to_state = len(found.terms) > ends or found.cancelled
    return sum(map(len, groups)) > 1 and (adds_to_state or any(len(group) > 1 for group in groups))


_Lifted = tuple[list[Branch], Lifter, tuple[Part, ...]]


def _parted(lifted: Sequence[_Lifted], held: frozenset[fx.Node]) -> tuple[list[_Lifted], list[_Lifted]]:
    """What is worth keeping, and what is not."""
    worth = [_is_worth(entry, lifted, held) for entry in lifted]
    kept = [entry for entry, keep in zip(lifted, worth, strict=True) if keep]
    return kept, [entry for entry, keep in zip(lifted, worth, strict=True) if not keep]


def _is_worth(entry: _Lifted, lifted: Sequence[_Lifted], held: frozenset[fx.Node]) -> bool:
    """Whether anything gets fewer: several branches in the group, or a product that it shares with another group.

    Branches that stay for other readers would only be computed twice.
    """
    group, _, parts = entry
    free = [branch for branch in group if held.isdisjoint(branch.outputs)]
    if len(free) != 1:
        return len(free) > 1
    others = {p.key for other in lifted if other is not entry for p in other[2] if isinstance(p, Contraction)}
    return len(group) == 1 and any(isinstance(part, Contraction) and part.key in others for part in parts)


def _held_back(root: fx.Node, abandoned: Sequence[_Lifted], held: frozenset[fx.Node]) -> list[Skip]:
    """The reason for each branch of a group of which all but one stay for other readers."""
    skipped: list[Skip] = []
    for group, *_ in abandoned:
        stays = next((out.name for branch in group for out in branch.outputs if out in held), None)
        reason = f"{stays} is in a part of {root.name} that something else reads, and would be computed twice"
        skipped.extend(Skip(name, reason) for name in outputs_of([group]) if len(group) > 1)
    return skipped


def _alone(root: fx.Node, groups: Sequence[Sequence[Branch]], abandoned: Sequence[Sequence[Branch]]) -> list[Skip]:
    """For each branch that is fused with no other, how it differs from the one that is most like it."""
    skipped: list[Skip] = []
    for branch in (group[0] for group in abandoned):
        others = [group[0] for group in groups if group[0] is not branch]
        name = branch.outputs[0].name
        reason = f"{name} is the only branch of {root.name} that nothing else reads"
        if others:
            other = max(others, key=lambda o: len(set(o.lines) & set(branch.lines)))
            what = difference(branch.nodes, branch.lines, other.nodes, other.lines)
            reason = f"{name} is not computed as {other.outputs[0].name} is: {what}"
        skipped.extend(Skip(output.name, reason) for output in branch.outputs)
    return skipped


def _replace(root: fx.Node, total: fx.Node) -> None:
    total.meta.update(root.meta)  # sums further down look at shapes
    root.replace_all_uses_with(total)


def _combined(module: fx.GraphModule, root: fx.Node, parts: Sequence[Part]) -> list[fx.Node]:
    """The parts as nodes to add.

    There is one product over the features of all parts that can share it, and one sum over the branches of all parts
    that can be added before.
    """
    products: dict[Any, list[Contraction]] = {}
    sums: dict[Any, list[Summed]] = {}
    for part in parts:
        if isinstance(part, Contraction):
            products.setdefault(part.key, []).append(part)
        else:
            sums.setdefault(part.branches and (part.branches, part.factor), []).append(part)
    return [
        *(_product(module, root, found) for found in products.values()),
        *(total(module.graph.call_function, found) for found in sums.values()),
    ]


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
