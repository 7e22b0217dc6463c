"""The ATen operators that passes know by name, grouped by what they mean for a rewrite."""

from __future__ import annotations

import operator

import torch
from torch import fx

aten = torch.ops.aten

LINEAR = aten.linear.default
LAYER_NORM = aten.layer_norm.default
ATTENTION = aten.scaled_dot_product_attention.default
ADD = aten.add.Tensor
GETITEM = operator.getitem
MULTIPLY = operator.mul

ADDS = frozenset({aten.add.Tensor, operator.add})
ROW_NORMS = frozenset({LAYER_NORM, aten.rms_norm.default})
NORMS = ROW_NORMS | frozenset({aten.group_norm.default, aten.batch_norm.default})
SOFTMAXES = frozenset({aten.softmax.int, aten._softmax.default})
MATRIX_PRODUCTS = frozenset({aten.matmul.default, aten.bmm.default, aten.mm.default, aten.einsum.default})
CONVOLUTIONS = frozenset(
    {
        aten.conv1d.default,
        aten.conv1d.padding,
        aten.conv2d.default,
        aten.conv2d.padding,
        aten.conv3d.default,
        aten.convolution.default,
    }
)
LINEARS = frozenset({aten.linear.default, aten.addmm.default})

COPIES = frozenset({aten.clone.default, aten.contiguous.default})
VIEWS = frozenset({aten.view.default, aten.reshape.default, aten._unsafe_view.default})

ELEMENTWISE = frozenset(
    {
        aten.gelu.default,
        aten.relu.default,
        aten.silu.default,
        aten.sigmoid.default,
        aten.tanh.default,
        aten.hardswish.default,
        aten.hardtanh.default,
        aten.leaky_relu.default,
        aten.elu.default,
        aten.mish.default,
        aten.softplus.default,
        aten.exp.default,
        aten.erf.default,
        aten.neg.default,
        aten.abs.default,
        aten.sqrt.default,
        aten.rsqrt.default,
        aten.pow.Tensor_Scalar,
        aten.clone.default,
        aten.contiguous.default,
        aten.clamp.default,
        aten.clamp_min.default,
        aten.to.dtype,
        aten._to_copy.default,
        aten.add.Tensor,
        aten.add.Scalar,
        aten.sub.Tensor,
        aten.sub.Scalar,
        aten.mul.Tensor,
        aten.mul.Scalar,
        aten.div.Tensor,
        aten.div.Scalar,
        operator.add,
        operator.sub,
        operator.mul,
        operator.truediv,
    }
)


def norm_epsilon(node: fx.Node) -> float | None:
    """The epsilon of a layer_norm, or of an rms_norm, where None stands for the dtype's own."""
    place, default = (4, 1e-5) if node.target == LAYER_NORM else (3, None)
    return node.args[place] if len(node.args) > place else default  # type: ignore[return-value]


def writes_in_place(node: fx.Node) -> bool:
    """Whether a node changes the value of another; `detach_` changes only what autograd knows of it."""
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable and target != aten.detach_.default


def gemms(node: fx.Node) -> int:
    """How many matrix products one node stands for; attention is two (scores, then values)."""
    if node.op != "call_function":
        return 0
    if node.target == ATTENTION:
        return 2
    return int(node.target in LINEARS or node.target in MATRIX_PRODUCTS or node.target in CONVOLUTIONS)
