"""Fold the batch norm of eval mode into the convolution or linear before it.

    gain * (W x + b - mean) / sqrt(variance + eps) + shift   ->   (s W) x + (s (b - mean) + shift),
    s = gain / sqrt(variance + eps), one number for each output channel

Refused, each with its reason: a batch norm in training mode, one behind another operator, one over a dimension that
holds no channels, a product that is read elsewhere too or whose weight is computed when the model runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from passes.graph import operators as ops
from passes.graph.dataflow import tensor_value
from passes.graph.parameters import add_parameter, read_parameter
from passes.runner import Pass, PassResult, Skip, Stage

aten = ops.aten


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold batch norms in eval mode into the convolutions and linears before them."""

    name: ClassVar[str] = "fold-batch-norm"
    exact: ClassVar[bool] = True
    stage: ClassVar[Stage] = "clean"
    after: ClassVar[tuple[str, ...]] = ("normalize-linears",)

    def apply(self, module: fx.GraphModule) -> PassResult:
        """See the module's docstring."""
        matches, skipped = [], []
        for norm in module.graph.find_nodes(op="call_function", target=aten.batch_norm.default):
            reason = _why_not(norm)
            if reason is not None:
                skipped.append(Skip(norm.name, reason))
                continue
            product = norm.args[0]
            assert isinstance(product, fx.Node)
            _fold(module, product, norm)
            matches.append(f"{norm.name} into {product.name}")
        return PassResult(tuple(matches), tuple(skipped))


def _why_not(norm: fx.Node) -> str | None:
    product = norm.args[0]
    if norm.args[5]:
        return f"{norm.name} normalises by its batch, as in training mode"
    if not isinstance(product, fx.Node) or product.target not in ops.PLAIN_CONVOLUTIONS | {ops.LINEAR}:
        return f"{norm.name} reads {product}, which is no convolution and no linear"
    if len(product.users) > 1:
        return f"{product.name} is read by {len(product.users)} nodes, not by {norm.name} alone"
    computed = [a for a in (*product.args[1:3], *norm.args[1:5]) if isinstance(a, fx.Node) and a.op != "get_attr"]
    if computed:
        return f"{computed[0].name}, which {norm.name} folds, is no stored parameter"
    values = tensor_value(product), tensor_value(product.args[1])  # type: ignore[arg-type]
    if values[0] is None or values[1] is None or values[0].ndim != values[1].ndim:
        return f"{norm.name} normalises dimension 1 of {product.name}, which does not hold its channels"
    return None


def _fold(module: fx.GraphModule, product: fx.Node, norm: fx.Node) -> None:
    def stored(argument: Any) -> Tensor | None:
        return read_parameter(module, argument).double() if isinstance(argument, fx.Node) else None

    gain, shift, mean, variance = (stored(argument) for argument in norm.args[1:5])
    weight, bias = stored(product.args[1]), stored(product.args[2] if len(product.args) > 2 else None)
    assert weight is not None
    assert mean is not None
    assert variance is not None
    epsilon = norm.args[7]
    assert isinstance(epsilon, int | float)
    scale = torch.rsqrt(variance + epsilon)
    scale = scale if gain is None else scale * gain
    total = ((0.0 if bias is None else bias) - mean) * scale
    total = total if shift is None else total + shift
    dtype = read_parameter(module, product.args[1]).dtype  # type: ignore[arg-type]
    wide = (weight * scale.reshape(-1, *([1] * (weight.ndim - 1)))).to(dtype)
    parameters = (
        add_parameter(module, "folded_weight", wide, product),
        add_parameter(module, "folded_bias", total.to(dtype), product),
    )
    product.args = (product.args[0], *parameters, *product.args[3:])
    norm.replace_all_uses_with(product)
    module.graph.erase_node(norm)
