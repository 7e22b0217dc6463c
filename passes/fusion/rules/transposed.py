"""Rules for transposed convolutions: their weights are (in, out / groups, ..).

shared input     the output channels of all branches side by side, in each group
private inputs   N times the groups
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from passes.fusion.emitter import Emitter
from passes.fusion.layout import CannotLiftError, Lifted, Shared, Wide, interleave
from passes.fusion.rule import Env, Rule, in_channels, operand, shape_of
from passes.fusion.weights import has_bias, stored_parameters
from passes.graph import operators as ops
from passes.graph.replacing import arguments

aten = ops.aten


def _transposed(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    columns, rank, given = emitter.column(node), len(shape_of(node)), arguments(node)
    stored = [stored_parameters(emitter.module, column) for column in columns]
    if rank != stored[0][0].ndim:
        raise CannotLiftError(f"{node.name} reads {list(shape_of(operand(node)))}, which has no batch")
    shared = isinstance(env[operand(node)], Shared)
    groups = given["groups"]
    outer = groups if shared else 1

    def weight() -> Tensor:
        return torch.cat([each for each, _ in stored], 1 if shared else 0)

    def bias() -> Tensor:
        return interleave([_bias(each) for each in stored], 0, outer)

    def _bias(each: tuple[Tensor, Tensor | None]) -> Tensor:
        return each[1] if each[1] is not None else each[0].new_zeros(each[0].shape[1] * groups)

    source = emitter.node(env[operand(node)], node) if shared else in_channels(emitter, node, env).node
    parameters = emitter.store("weight", weight), emitter.store("bias", bias) if has_bias(node) else None
    settings = (given["stride"], given["padding"], given["output_padding"])
    all_groups = groups if shared else groups * emitter.count
    args = (source, *parameters, *settings, all_groups, given["dilation"])
    return Wide(emitter.emit(node.target, args), 1 - rank, outer, shape_of(node))


RULES: dict[Any, Rule] = dict.fromkeys(
    (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input), _transposed
)
