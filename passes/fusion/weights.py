"""Stored weights of linears and convolutions, with what stands before and behind them folded in.

    s * (W (n * g + b) + c)  =  (s W g) n + s (W b + c)

All is computed in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, fx

from passes.fusion.layout import CannotLiftError
from passes.graph.convolutions import convolution_settings
from passes.graph.parameters import read_parameter


def has_bias(node: fx.Node, shifts: Sequence[Tensor | None] = ()) -> bool:
    """Whether a linear or convolution adds a bias, or a shift becomes one."""
    return (len(node.args) > 2 and node.args[2] is not None) or any(shift is not None for shift in shifts)


def stored_parameters(module: fx.GraphModule, node: fx.Node) -> tuple[Tensor, Tensor | None]:
    """Weight (out, in, ..) and bias of a linear or a convolution.

    Raises:
        CannotLiftError: one of them is computed when the model runs.
    """
    weight, bias = node.args[1], node.args[2] if len(node.args) > 2 else None
    for parameter in (weight, bias):
        if isinstance(parameter, fx.Node) and parameter.op != "get_attr":
            raise CannotLiftError(f"{node.name} has the computed weight {parameter.name}")
    assert isinstance(weight, fx.Node)
    return read_parameter(module, weight), read_parameter(module, bias) if isinstance(bias, fx.Node) else None


def folded_weight(module: fx.GraphModule, linear: fx.Node, gain: Tensor | None, scale: Tensor | None = None) -> Tensor:
    """Weight of `scale * linear(n * gain + shift)` as a linear of n, rounded once."""
    weight = stored_parameters(module, linear)[0]
    if gain is None and scale is None:
        return weight
    if scale is None and gain is not None and gain.dtype == weight.dtype:
        return weight * gain  # a single product is rounded as if it were made in float64
    wide = weight.double() if gain is None else weight * gain.double()
    if scale is not None:
        wide = wide * scale.reshape(-1, *([1] * (wide.ndim - 1)))
    return wide.to(weight.dtype)


def folded_bias(module: fx.GraphModule, linear: fx.Node, shift: Tensor | None, scale: Tensor | None = None) -> Tensor:
    """Bias of `scale * linear(n * gain + shift)` as a linear of n, computed in float64."""
    weight, bias = stored_parameters(module, linear)
    if bias is None and shift is None:
        return weight.new_zeros(len(weight))
    if shift is None and scale is None:
        return cast("Tensor", bias)
    total = weight.new_zeros(len(weight), dtype=torch.float64) if bias is None else bias.double()
    if shift is not None:
        total = total + weight.double() @ shift.double()
    return (total if scale is None else total * scale).to(weight.dtype)


def float64_sum(values: Sequence[Tensor]) -> Tensor:
    """A sum in float64, rounded once."""
    return torch.stack([value.double() for value in values]).sum(0).to(values[0].dtype)


def groups_of(node: fx.Node) -> int:
    """The groups of a convolution."""
    return cast("int", convolution_settings(node)[-1])
