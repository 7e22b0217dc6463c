"""Branches of equal structure that meet in a concatenation or a stack: their values stay in one tensor.

    cat([f_1(x), f_2(x), z])   ->   cat([f(x), z])        f wide

Where they lie one after another in a concatenation, it reads the wide value as it is. Elsewhere the branches are cut
out of it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import fx

from passes.fusion.branches import Branch, find_branches
from passes.fusion.emitter import Emitter
from passes.fusion.groups import aligned, described, outputs_of, refused
from passes.fusion.layout import Apart, CannotLiftError, Lifted, Wide
from passes.fusion.lift import Lifter
from passes.fusion.relayout import JOINED, materialised, moved
from passes.fusion.rule import shape_of
from passes.fusion.rules.apart import each_branch
from passes.fusion.sums import stack_of
from passes.graph import operators as ops
from passes.graph.dataflow import tensor_value
from passes.runner import PassResult, Skip

aten = ops.aten

GATHERS = frozenset({aten.cat.default, aten.stack.default})


def is_gather(node: fx.Node) -> bool:
    """A concatenation, or a stack whose values are not added up; not of branches that fusion has run one by one."""
    if JOINED in node.meta:
        return False
    return node.target in GATHERS and not any(stack_of(user) is node for user in node.users)


def fuse_gather(module: fx.GraphModule, root: fx.Node, place: Mapping[fx.Node, float], *, dry: bool) -> PassResult:
    """Replace the fusible branches of one concatenation or stack."""
    members = list(dict.fromkeys(m for m in cast("Sequence[Any]", root.args[0]) if isinstance(m, fx.Node)))
    if len(members) < 2 or any(tensor_value(member) is None for member in members):
        return PassResult()
    groups = [group for group in find_branches(members, {root}, place) if len(group) > 1]
    fused: list[list[Branch]] = []
    lines: list[str] = []
    skipped: list[Skip] = []
    shared: dict[Any, fx.Node] = {}
    for group in groups:
        emitter = Emitter(module, aligned(group), root, shared)
        try:
            values = Lifter(emitter).lift_values()
        except CannotLiftError as error:
            skipped.extend(refused(group, error))
            continue
        lines.append(described(group, emitter))
        fused.append(group)
        if dry:
            emitter.abandon()
            continue
        for number, value in enumerate(values):
            _read_wide(emitter, root, [branch.outputs[number] for branch in group], value)
        emitter.commit()
    matches = (f"{root.name}: {', '.join(lines)}",) if lines else ()
    return PassResult(matches, tuple(skipped), outputs_of(groups), outputs_of(fused))


def _read_wide(emitter: Emitter, root: fx.Node, outputs: Sequence[fx.Node], value: Lifted) -> None:
    """Let a concatenation read the wide value: as it is where nothing else stands between the branches."""
    members = list(cast("list[fx.Node]", root.args[0]))
    value = value if isinstance(value, Apart) else materialised(emitter, value, outputs[0], shape_of(outputs[0]))
    first = members.index(outputs[0])
    once = len(members) == len(set(members))
    in_a_row = root.target == aten.cat.default and once and members[first:][: len(outputs)] == outputs
    if isinstance(value, Wide) and in_a_row:
        rank = len(value.shape)
        dim = (cast("int", root.args[1]) if len(root.args) > 1 else 0) % rank - rank
        members[first : first + len(outputs)] = [moved(emitter, value, dim, 1).node]
    else:
        pieces = dict(zip(outputs, each_branch(emitter, outputs[0], value), strict=True))
        members = [pieces.get(member, member) for member in members]
    if len(members) == 1:
        members[0].meta.update(root.meta)
        root.replace_all_uses_with(members[0])
        return
    root.update_arg(0, members)
