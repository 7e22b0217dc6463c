"""Say in one sentence where two computations of nearly equal structure part."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from passes.graph.dataflow import tensor_value


def difference(
    left: Sequence[fx.Node], left_lines: Sequence[str], right: Sequence[fx.Node], right_lines: Sequence[str]
) -> str:
    """Where the first of two computations first differs from the second.

    Args:
        left: nodes in canonical order.
        left_lines: their structure (passes.stacks.terms.structure), which may have more lines than there are nodes.
        right: the same of the other computation.
        right_lines: its structure.
    """
    for place, (mine, other) in enumerate(zip(left_lines, right_lines, strict=False)):
        if mine == other or (place < len(left) and place < len(right) and left[place] is right[place]):
            continue
        if place < len(left) and place < len(right):
            return _at(left[place], right[place])
        return f"it ends in {mine}, the other in {other}"
    longer = left if len(left) > len(right) else right
    return f"only one of them has {longer[min(len(left), len(right))].name}" if len(left) != len(right) else "nowhere"


def _at(mine: fx.Node, other: fx.Node) -> str:
    if mine.op == other.op == "get_attr":
        return f"{mine.target} is {_described(mine)}, {other.target} is {_described(other)}"
    if mine.op != "call_function" or other.op != "call_function":
        return f"it reads {mine.name}, the other {other.name}"
    if mine.target != other.target:
        return f"{mine.name} is {mine.target}, {other.name} is {other.target}"
    ours, theirs = _settings(mine), _settings(other)
    settings = [
        f"{ours.get(key, 'nothing')}, not {theirs.get(key, 'nothing')}"
        for key in {**ours, **theirs}
        if ours.get(key) != theirs.get(key)
    ]
    if settings:
        return f"{mine.name} ({mine.target}) has {settings[0]} as {other.name} has"
    return f"{mine.name} and {other.name} read values in another order"


def _described(node: fx.Node) -> str:
    value = tensor_value(node)
    return "unknown" if value is None else f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def _settings(node: fx.Node) -> dict[str, str]:
    """The arguments by place or name, without the names of nodes."""
    arguments = {**{str(place): arg for place, arg in enumerate(node.args)}, **node.kwargs}
    return {key: str(fx.map_arg(value, lambda _: _VALUE)) for key, value in arguments.items()}  # type: ignore[arg-type,return-value]


class _Value:
    """Stands for any node among printed arguments."""

    def __repr__(self) -> str:
        return "a value"


_VALUE = _Value()
