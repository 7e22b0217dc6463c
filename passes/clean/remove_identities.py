"""Remove operators that pass a value through unchanged in eval mode.

    y = dropout(x, p, train=False)  ->  y = x

Cases: dropout outside training, alias, detach, a conversion to the dtype that the value already has, zero added and one
multiplied (`sum` of a list begins with 0), slices that take all, and assertions on metadata; a write of all values, as
in `y[:] = x`, is what it writes.
Refused: dropout in training mode, because its result is random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import fx

from passes.graph.dataflow import same_shape, tensor_value
from passes.graph.operators import DROPOUTS
from passes.graph.replacing import arguments
from passes.runner import Pass, PassResult, Skip, Stage

aten = torch.ops.aten

_ALIASES = frozenset({aten.alias.default, aten.detach.default, aten.detach_.default, aten.lift_fresh_copy.default})
_CASTS = frozenset({aten.to.dtype, aten._to_copy.default, aten.to.dtype_layout})
_NEUTRAL = {  # the number that changes nothing
    **dict.fromkeys((aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar), 0),
    **dict.fromkeys((aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar), 1),
}
_END = 2**63 - 1  # a slice to the end, as it is captured
_ASSERTIONS = frozenset({aten._assert_tensor_metadata.default})


@dataclass(frozen=True)
class RemoveIdentities(Pass):
    """Remove dropout in eval mode, aliases, casts to the same dtype, adds of 0 and metadata assertions."""

    name: ClassVar[str] = "remove-identities"
    exact: ClassVar[bool] = True
    stage: ClassVar[Stage] = "clean"
    after: ClassVar[tuple[str, ...]] = ("normalize-synonyms",)

    def apply(self, module: fx.GraphModule) -> PassResult:
        """See the module's docstring."""
        matches, skipped = [], []
        for node in list(module.graph.nodes):
            if node.op != "call_function":
                continue
            if node.target in _ASSERTIONS and not node.users:
                module.graph.erase_node(node)
                matches.append(node.name)
                continue
            if node.target in DROPOUTS and node.args[2]:
                skipped.append(Skip(node.name, f"{node.name} drops values with p = {node.args[1]} in training mode"))
                continue
            same = node.args[1] if _writes_all(node) else node.args[0] if _is_identity(node) else None
            if not isinstance(same, fx.Node):
                continue
            node.replace_all_uses_with(same)
            module.graph.erase_node(node)
            matches.append(node.name)
        return PassResult(tuple(matches), tuple(skipped))


def _takes_all(node: fx.Node) -> bool:
    """Whether a slice begins at the first value and ends behind the last."""
    if node.target not in (aten.slice.Tensor, aten.slice_scatter.default):
        return False
    given = arguments(node)
    start, end, step = (given[name] for name in ("start", "end", "step"))
    numbers = not any(isinstance(value, fx.Node) for value in (start, end, step))
    return numbers and start in (None, 0) and end in (None, _END) and step == 1


def _writes_all(node: fx.Node) -> bool:
    """Whether a tensor is written over with another one of its type and shape."""
    if node.target != aten.copy.default and (node.target != aten.slice_scatter.default or not _takes_all(node)):
        return False
    source, result = tensor_value(cast("fx.Node", node.args[1])), tensor_value(node)
    alike = source is not None and result is not None and same_shape(source, result)
    return alike and source.dtype == result.dtype and list(map(str, source.stride())) == list(map(str, result.stride()))  # type: ignore[union-attr]


def _is_identity(node: fx.Node) -> bool:
    if node.target in DROPOUTS or node.target in _ALIASES:
        return True
    if node.target == aten.slice.Tensor and _takes_all(node):
        return True
    neutral = node.target in _NEUTRAL and not isinstance(node.args[1], fx.Node) and not node.kwargs
    is_neutral = neutral and node.args[1] == _NEUTRAL[node.target]  # type: ignore[index]
    if not (is_neutral or node.target in _CASTS) or not isinstance(node.args[0], fx.Node):
        return False
    source, result = tensor_value(node.args[0]), tensor_value(node)
    return source is not None and result is not None and source.dtype == result.dtype and source.device == result.device
