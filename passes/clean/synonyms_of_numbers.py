"""Other spellings of sums of products, statistics and norms.

    addcmul(x, a, b, value=v) = x + v a b       addcdiv(x, a, b, value=v) = x + v a / b
    std = sqrt(var)                             max(x, dim) = amax(x), argmax(x)
    |x|_p = (sum |x|^p)^(1/p)                   |x|_inf = max |x|           cosine(x, y) = x y / (|x| |y|)
    1.0 - mask of integers = 1.0 - float(mask)

Left as they are: norms of matrices and of complex numbers, cosines of vectors of two lengths.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import fx

from passes.clean.synonyms import Pieces, Spelling
from passes.graph.dataflow import tensor_value
from passes.graph.operators import aten
from passes.graph.replacing import Replacing, arguments, rank_of, size_texts

_HALF = (torch.float16, torch.bfloat16)


def _addcmul(place: Replacing, node: fx.Node) -> fx.Node:
    return _plus(place, node, aten.mul.Tensor)


def _addcdiv(place: Replacing, node: fx.Node) -> fx.Node:
    return _plus(place, node, aten.div.Tensor)


def _plus(place: Replacing, node: fx.Node, times: Any) -> fx.Node:
    term = place.emit(times, *node.args[1:3])
    value = node.kwargs.get("value", 1)
    if value != 1:
        term = place.emit(aten.mul.Tensor, term, value)
    return place.emit(aten.add.Tensor, node.args[0], term)


def _difference(place: Replacing, node: fx.Node) -> fx.Node | None:
    """A number less integers, which the ONNX exporter takes of floating-point values only."""
    value, total = tensor_value(cast("fx.Node", node.args[0])), tensor_value(node)
    if value is None or total is None or value.dtype == total.dtype or not total.is_floating_point():
        return None
    wide = place.emit(aten.to.dtype, node.args[0], total.dtype)
    return place.emit(aten.rsub.Scalar, wide, *node.args[1:], **node.kwargs)


# statistics ---------------------------------------------------------------------------------------------------------


def _dims(node: fx.Node, dim: Any) -> list[int]:
    """The dimensions that a statistic is taken over, all where none is listed."""
    listed = [dim] if isinstance(dim, int) else list(dim or ())
    return listed or list(range(rank_of(cast("fx.Node", node.args[0]))))


def _variance(place: Replacing, node: fx.Node) -> fx.Node:
    """The variance that var, std, var_mean or std_mean takes."""
    given = arguments(node)
    correction = given["correction"] if "correction" in given else int(given["unbiased"])
    return place.emit(
        aten.var.correction,
        node.args[0],
        _dims(node, given.get("dim")),
        correction=1 if correction is None else correction,
        keepdim=given.get("keepdim", False),
    )


def _deviation(place: Replacing, node: fx.Node) -> fx.Node:
    return place.emit(aten.sqrt.default, _variance(place, node))


def _mean(place: Replacing, node: fx.Node) -> fx.Node:
    given = arguments(node)
    return place.emit(aten.mean.dim, node.args[0], _dims(node, given.get("dim")), given.get("keepdim", False))


def _extreme(target: Any) -> Spelling:
    """Max and min of all values."""

    def spelled(place: Replacing, node: fx.Node) -> fx.Node:
        return place.emit(target, node.args[0], _dims(node, None))

    return spelled


def _value(target: Any) -> Any:
    def spelled(place: Replacing, node: fx.Node) -> fx.Node:
        given = arguments(node)
        return place.emit(target, node.args[0], [given["dim"]], given["keepdim"])

    return spelled


def _place(target: Any) -> Any:
    def spelled(place: Replacing, node: fx.Node) -> fx.Node:
        given = arguments(node)
        return place.emit(target, node.args[0], given["dim"], given["keepdim"])

    return spelled


# norms --------------------------------------------------------------------------------------------------------------


def _norm(place: Replacing, node: fx.Node) -> fx.Node | None:
    """The p-norm of vectors; 2 where no order is given."""
    given = arguments(node)
    order, dim = given.get("ord", given.get("p", 2)), given.get("dim")
    source = cast("fx.Node", node.args[0])
    if given.get("dtype") is not None or not _is_real(source):
        return None
    order = 2 if order is None else order
    dims = _dims(node, dim)
    is_matrix = node.target == aten.linalg_norm.default and given["ord"] is not None and len(dims) != 1
    if is_matrix or not isinstance(order, int | float):
        return None
    return p_norm(place, source, float(order), dims, keepdim=bool(given.get("keepdim", False)))


def _is_real(node: fx.Node) -> bool:
    value = tensor_value(node)
    return value is not None and value.is_floating_point()


def p_norm(place: Replacing, source: fx.Node, order: float, dims: Sequence[int], *, keepdim: bool) -> fx.Node:
    """(sum |x|^p)^(1/p) over some dimensions; half precision is summed up in float32, as PyTorch does."""
    value = tensor_value(source)
    assert value is not None
    half = value.dtype in _HALF
    x = place.emit(aten.to.dtype, source, torch.float32) if half else source
    total = _total(place, x, order, list(dims), keepdim)
    return place.emit(aten.to.dtype, total, value.dtype) if half else total


def _total(place: Replacing, x: fx.Node, order: float, dims: list[int], keepdim: bool) -> fx.Node:
    if order == 2:
        squares = place.emit(aten.mul.Tensor, x, x)
        return place.emit(aten.sqrt.default, place.emit(aten.sum.dim_IntList, squares, dims, keepdim))
    if order == 0:
        nonzero = place.emit(aten.to.dtype, place.emit(aten.ne.Scalar, x, 0), x.meta["val"].dtype)
        return place.emit(aten.sum.dim_IntList, nonzero, dims, keepdim)
    size = place.emit(aten.abs.default, x)
    if math.isinf(order):
        return place.emit(aten.amax.default if order > 0 else aten.amin.default, size, dims, keepdim)
    if order == 1:
        return place.emit(aten.sum.dim_IntList, size, dims, keepdim)
    powers = place.emit(aten.pow.Tensor_Scalar, size, order)
    total = place.emit(aten.sum.dim_IntList, powers, dims, keepdim)
    return place.emit(aten.pow.Tensor_Scalar, total, 1 / order)


def _cosine(place: Replacing, node: fx.Node) -> fx.Node | None:
    """Both vectors are divided by their norms, no norm smaller than eps."""
    given = arguments(node)
    left, right = given["x1"], given["x2"]
    if not (_is_real(left) and _is_real(right)) or rank_of(left) != rank_of(right):
        return None
    if size_texts(left)[given["dim"]] != size_texts(right)[given["dim"]]:  # one is repeated before its norm is taken
        return None
    units = []
    for x in (left, right):
        size = place.emit(aten.clamp_min.default, p_norm(place, x, 2, [given["dim"]], keepdim=True), given["eps"])
        units.append(place.emit(aten.div.Tensor, x, size))
    return place.emit(aten.sum.dim_IntList, place.emit(aten.mul.Tensor, *units), [given["dim"]])


SPELLINGS: dict[object, Spelling] = {
    aten.addcmul.default: _addcmul,
    aten.addcdiv.default: _addcdiv,
    aten.rsub.Scalar: _difference,
    aten.var.default: _variance,
    aten.var.dim: _variance,
    aten.std.default: _deviation,
    aten.std.dim: _deviation,
    aten.std.correction: _deviation,
    aten.max.default: _extreme(aten.amax.default),
    aten.min.default: _extreme(aten.amin.default),
    aten.linalg_vector_norm.default: _norm,
    aten.linalg_norm.default: _norm,
    aten.norm.Scalar: _norm,
    aten.norm.ScalarOpt_dim: _norm,
    aten.frobenius_norm.dim: _norm,
    aten.cosine_similarity.default: _cosine,
}

PIECES: dict[object, Pieces] = {
    aten.max.dim: (_value(aten.amax.default), _place(aten.argmax.default)),
    aten.min.dim: (_value(aten.amin.default), _place(aten.argmin.default)),
    **dict.fromkeys((aten.var_mean.default, aten.var_mean.dim, aten.var_mean.correction), (_variance, _mean)),
    **dict.fromkeys((aten.std_mean.default, aten.std_mean.dim, aten.std_mean.correction), (_deviation, _mean)),
}
