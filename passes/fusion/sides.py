"""What fused branches read from outside, computed side by side too: the conditioning of blocks, such as adaLN.

    stack([shift_1, .., shift_N]), stack([gate_1, .., gate_N])        shift_i, gate_i pieces of W_i c + b_i
        ->  the same pieces of [W_1; ..; W_N] c + [b_1; ..; b_N]

A group of branches reads values of its own for each branch as one stack. The terms of one block may lie on several
levels, so what they share of a block's conditioning is read by several stacks, and only when all levels are fused is it
known that nothing else reads it. Then all stacks are looked at together, those of all levels.

Left as stacks: what something else reads, what is computed after the first of the stacks, and what would run no fewer
operators side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from torch import fx

from passes.fusion.branches import find_branches
from passes.fusion.emitter import Emitter
from passes.fusion.groups import Group, aligned, described
from passes.fusion.layout import Apart, CannotLiftError, Lifted, Wide
from passes.fusion.lift import Lifter
from passes.fusion.relayout import materialised, stacked
from passes.fusion.rule import shape_of
from passes.fusion.rules.apart import each_branch
from passes.graph import operators as ops

aten = ops.aten


def fuse_sides(module: fx.GraphModule, sides: Iterable[fx.Node], place: Mapping[fx.Node, float]) -> tuple[str, ...]:
    """Compute the values of stacks side by side where they are computed alike; a line for each group."""
    stacks = sorted((node for node in dict.fromkeys(sides) if node.users), key=place.__getitem__)
    members = [member for node in stacks for member in _members(node)]
    lines = []
    for group in find_branches(members, set(stacks), place, light=True) if stacks else []:
        for part in _in_time(group, stacks, place):
            readers = _readers(part, stacks)
            emitter = Emitter(module, aligned(part), readers[0], {})
            try:
                values = Lifter(emitter).lift_values()
            except CannotLiftError:
                continue
            lines.append(f"{readers[0].name}: {described(part, emitter)}")
            for number, value in enumerate(values):
                _replace(emitter, readers, [branch.outputs[number] for branch in part], value)
            emitter.commit()
    return tuple(lines)


def _members(stack: fx.Node) -> list[fx.Node]:
    return list(cast("Sequence[fx.Node]", stack.args[0]))


def _readers(group: Group, stacks: Sequence[fx.Node]) -> list[fx.Node]:
    """The stacks that read an output of the group, the first one first."""
    outputs = {output for branch in group for output in branch.outputs}
    return [stack for stack in stacks if not outputs.isdisjoint(_members(stack))]


def _in_time(group: Group, stacks: Sequence[fx.Node], place: Mapping[fx.Node, float]) -> list[Group]:
    """The group where all that it reads is there before the first stack, else its parts for which that holds."""
    if len(group) < 2:
        return []
    first = place[_readers(group, stacks)[0]]
    leaves = (node for branch in group for node in branch.nodes if node not in branch.inner)
    if all(leaf.op == "get_attr" or place[leaf] < first for leaf in leaves):
        return [group]
    together = {member: stack for stack in reversed(stacks) for member in _members(stack)}
    parts: dict[fx.Node, list[int]] = {}
    for number, branch in enumerate(group):
        parts.setdefault(together[branch.outputs[0]], []).append(number)
    if len(parts) == 1:
        return []
    return [part for numbers in parts.values() for part in _in_time([group[n] for n in numbers], stacks, place)]


def _replace(emitter: Emitter, readers: Sequence[fx.Node], outputs: Sequence[fx.Node], value: Lifted) -> None:
    """Let the stacks of one value of the branches be the wide value, or a run of branches in it."""
    value = value if isinstance(value, Apart) else materialised(emitter, value, outputs[0], shape_of(outputs[0]))
    readers = [stack for stack in readers if not set(outputs).isdisjoint(_members(stack))]
    runs = [_run(outputs, _members(stack)) for stack in readers] if isinstance(value, Wide) else []
    whole = stacked(emitter, value) if isinstance(value, Wide) and any(runs) else None
    for number, stack in enumerate(readers):
        run = runs[number] if runs else None
        if whole is None or run is None:
            pieces = dict(zip(outputs, each_branch(emitter, outputs[0], value), strict=True))
            stack.update_arg(0, [pieces.get(member, member) for member in _members(stack)])
            continue
        is_all = len(run) == len(outputs)
        wide = whole if is_all else emitter.emit_once(aten.slice.Tensor, (whole, 0, run.start, run.stop))
        stack.replace_all_uses_with(wide)


def _run(outputs: Sequence[fx.Node], members: Sequence[fx.Node]) -> range | None:
    """Where among the outputs the members stand one after another, in their order."""
    first = outputs.index(members[0]) if members[0] in outputs else len(outputs)
    run = range(first, first + len(members))
    return run if list(outputs[first : run.stop]) == list(members) else None
