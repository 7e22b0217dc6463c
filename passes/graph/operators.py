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
MATRIX_PRODUCTS = frozenset(
    {aten.matmul.default, aten.bmm.default, aten.baddbmm.default, aten.mm.default, aten.einsum.default}
)
CONVOLUTIONS = frozenset(
    {
        aten.conv1d.default,
        aten.conv1d.padding,
        aten.conv2d.default,
        aten.conv2d.padding,
        aten.conv3d.default,
        aten.conv3d.padding,
        aten.convolution.default,
    }
)
PLAIN_CONVOLUTIONS = CONVOLUTIONS - {aten.convolution.default}
NAMED_PADDING = frozenset({aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding})
LINEARS = frozenset({aten.linear.default, aten.addmm.default})

REDUCTIONS = frozenset({aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default, aten.var.correction})
POOLS_1D = frozenset({aten.avg_pool1d.default, aten.max_pool1d.default, aten.adaptive_avg_pool1d.default})
POOLS_2D = frozenset({aten.avg_pool2d.default, aten.max_pool2d.default, aten.adaptive_avg_pool2d.default})

RECURRENCES = frozenset({aten.gru.input, aten.lstm.input, aten.rnn_tanh.input, aten.rnn_relu.input})

DROPOUTS = frozenset(
    {
        aten.dropout.default,
        aten.feature_dropout.default,
        aten.alpha_dropout.default,
        aten.feature_alpha_dropout.default,
    }
)
COPIES = frozenset({aten.clone.default, aten.contiguous.default})
VIEWS = frozenset({aten.view.default, aten.reshape.default, aten._unsafe_view.default})
REARRANGEMENTS = frozenset(  # values in another order, shape or selection, and sizes
    {
        aten.transpose.int,
        aten.permute.default,
        aten.unflatten.int,
        aten.flatten.using_ints,
        aten.unsqueeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.select.int,
        aten.slice.Tensor,
        aten.narrow.default,
        aten.split.Tensor,
        aten.split_with_sizes.default,
        aten.chunk.default,
        aten.unbind.int,
        aten.sym_size.int,
    }
)

ELEMENTWISE = frozenset(
    {
        aten.gelu.default,
        aten.relu6.default,
        aten.hardsigmoid.default,
        aten.celu.default,
        aten.selu.default,
        aten.log_sigmoid.default,
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
        aten.square.default,
        aten.reciprocal.default,
        aten.sin.default,
        aten.cos.default,
        aten.log.default,
        aten.log1p.default,
        aten.sign.default,
        aten.clamp_max.default,
        aten.maximum.default,
        aten.minimum.default,
        aten.where.self,
        aten.where.ScalarOther,
        aten.where.ScalarSelf,
        aten.masked_fill.Scalar,
        aten.masked_fill.Tensor,
        aten.logical_not.default,
        aten.logical_and.default,
        aten.bitwise_not.default,
        aten.bitwise_and.Tensor,
        *(
            getattr(getattr(aten, name), kind)
            for name in ("eq", "ne", "lt", "le", "gt", "ge")
            for kind in ("Scalar", "Tensor")
        ),
        aten.pow.Tensor_Tensor,
        aten.rsub.Scalar,
        aten.zeros_like.default,
        aten.ones_like.default,
        aten.full_like.default,
        aten.fill.Scalar,
        aten.fill.Tensor,
        aten.type_as.default,
        aten.to.dtype,
        aten.to.dtype_layout,
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

# sizes, and numbers that are computed from them
OF_SIZES = frozenset(
    {
        aten.sym_size.int,
        operator.add,
        operator.sub,
        operator.mul,
        operator.floordiv,
        operator.mod,
    }
)

# arguments of which only shape, dtype or device are read, by their places
METADATA_ARGUMENTS = {
    **dict.fromkeys(
        (
            aten.type_as.default,
            aten.to.other,
            aten.expand_as.default,
            aten.reshape_as.default,
            aten.view_as.default,
            aten.resize_as.default,
            aten.resize_as_.default,
        ),
        frozenset({1}),
    ),
    **dict.fromkeys(
        (
            aten.zeros_like.default,
            aten.ones_like.default,
            aten.empty_like.default,
            aten.full_like.default,
            aten.rand_like.default,
            aten.randn_like.default,
            aten.randint_like.default,
            aten.randint_like.low_dtype,
            aten.new_zeros.default,
            aten.new_ones.default,
            aten.new_empty.default,
            aten.new_empty_strided.default,
            aten.new_full.default,
            aten._shape_as_tensor.default,
            aten._assert_tensor_metadata.default,
        ),
        frozenset({0}),
    ),
}


def is_pointwise(node: fx.Node) -> bool:
    """Whether a node computes each value of one tensor from the values that lie in the same place."""
    target = node.target
    if target in ELEMENTWISE:
        return True
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.pointwise not in target.tags:
        return False
    return len(target._schema.returns) == 1 and not target._schema.is_mutable


def norm_epsilon(node: fx.Node) -> float | None:
    """The epsilon of a layer_norm, or of an rms_norm, where None stands for the dtype's own."""
    place, default = (4, 1e-5) if node.target == LAYER_NORM else (3, None)
    return node.args[place] if len(node.args) > place else default  # type: ignore[return-value]


def writes_in_place(node: fx.Node) -> bool:
    """Whether a node changes the value of another; `detach_` changes only what autograd knows of it."""
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable and target != aten.detach_.default


def is_random(node: fx.Node) -> bool:
    """Whether a node may draw random values, so that computing it once is not computing it twice."""
    target = node.target
    if target == ATTENTION:
        probability = node.args[4] if len(node.args) > 4 else node.kwargs.get("dropout_p", 0.0)
        return bool(probability != 0)
    if target in DROPOUTS:
        return bool(node.args[2])
    if target in RECURRENCES:
        dropout, train = node.args[5:7]
        return bool(dropout and train)
    if isinstance(target, torch._ops.OpOverload):
        return torch.Tag.nondeterministic_seeded in target.tags
    return isinstance(target, torch._ops.HigherOrderOperator)  # its body may hold anything


def gemms(node: fx.Node) -> int:
    """How many matrix products one node stands for; attention is two (scores, then values)."""
    if node.op != "call_function":
        return 0
    if node.target == ATTENTION:
        return 2
    return int(node.target in LINEARS or node.target in MATRIX_PRODUCTS or node.target in CONVOLUTIONS)
