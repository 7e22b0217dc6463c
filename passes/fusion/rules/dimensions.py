"""Rules for operators that act along dimensions which they name: the branches lie in another one.

Cases:
    1. the rank stays: running products, log_softmax, sorting, triangles, Fourier transforms;
    2. dimensions go, unless they are kept with size 1: largest values, products, logarithms of sums, any and all;
    3. several results of one shape, such as values and places: topk, sort, median, cummax;
    4. dimensions come or are taken together: windows, diagonals, one_hot, complex numbers as pairs of real ones;
    5. the last dimensions in a fixed number: pixel shuffles, interpolation, pooling in three dimensions, inverses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from passes.fusion.emitter import Emitter
from passes.fusion.layout import CannotLiftError, Lifted, Pieces, Shared, Wide
from passes.fusion.rule import Env, Rule, again, along, operand, shape_of, wide_operand
from passes.graph import operators as ops
from passes.graph.replacing import arguments

aten = ops.aten

Dims = Callable[[fx.Node], Sequence[int]]


def _named(*names: str) -> Dims:
    """The dimensions that arguments of these names list; all where an argument is None."""

    def dims(node: fx.Node) -> list[int]:
        given = arguments(node)
        rank = len(shape_of(operand(node)))
        listed: list[int] = []
        for name in names:
            value = given[name]
            if not isinstance(value, int | list | tuple):
                return list(range(rank))
            listed.extend([value] if isinstance(value, int) else value)
        return [dim % rank for dim in listed]

    return dims


def _last(count: int) -> Dims:
    """The last dimensions."""
    return lambda node: [
        dim for dim in range(len(shape_of(operand(node)))) if dim >= len(shape_of(operand(node))) - count
    ]


def _behind_channels(node: fx.Node) -> Sequence[int]:
    """All dimensions but batch and channels."""
    return range(2, len(shape_of(operand(node))))


def _kept(dims: Dims) -> Rule:
    """The operator where the branches lie ahead of, or else outside of the dimensions on which it acts."""

    def lifted(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
        value = along(emitter, node, env, dims(node))
        before, after = len(value.shape), len(shape_of(node))
        return again(emitter, node, value, env, dim=value.dim if before == after else value.place - after)

    return lifted


def _reduced(dims: Dims) -> Rule:
    def lifted(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
        value = along(emitter, node, env, dims(node))
        return again(emitter, node, value, env, dim=_after(node, value, dims(node)))

    return lifted


def _after(node: fx.Node, value: Wide, dims: Sequence[int]) -> int:
    """The wide dimension after a reduction."""
    if arguments(node).get("keepdim", False):
        return value.dim
    return value.dim + sum(place > value.place for place in dims)


def _several(dims: Dims) -> Rule:
    """Several results of one shape; where the operator has `keepdim`, the dimensions go or stay as it says."""

    def lifted(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
        value = along(emitter, node, env, dims(node))
        dim = _after(node, value, dims(node)) if "keepdim" in arguments(node) else value.dim
        args, kwargs = emitter.plain(node, {**env, operand(node): Shared(value.node)})
        return Pieces(emitter.emit(node.target, args, kwargs), dim, value.outer)

    return lifted


def _added(dims: Dims | None = None) -> Rule:
    """A new last dimension: windows of `dims`, classes, real and imaginary parts."""

    def lifted(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
        value = along(emitter, node, env, dims(node)) if dims else wide_operand(emitter, node, env)
        return again(emitter, node, value, env, dim=value.dim - 1)

    return lifted


def _as_complex(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    value = along(emitter, node, env, [-1])
    return again(emitter, node, value, env, dim=value.dim + 1)


def _diagonal(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    """Two dimensions go, and their diagonal comes last."""
    dims = _named("dim1", "dim2")(node)
    value = along(emitter, node, env, dims)
    place = value.place - sum(dim < value.place for dim in dims)
    return again(emitter, node, value, env, dim=place - len(shape_of(node)))


def _in_place(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    return again(emitter, node, wide_operand(emitter, node, env), env)


def _one_hot(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    if arguments(node)["num_classes"] == -1:
        raise CannotLiftError(f"{node.name} has as many classes as the data tell")
    return _added()(emitter, node, env)


def _sampled(emitter: Emitter, node: fx.Node, env: Env) -> Lifted:
    """grid_sampler: the branches in the channels of the image where they share a grid, else as more samples."""
    if isinstance(env[operand(node, 1)], Shared):
        return again(emitter, node, along(emitter, node, env, [0, *_behind_channels(node)]), env)
    raise CannotLiftError(f"{node.name} ({node.target}) samples at places that differ between the branches")


_FOURIER = tuple(f"{name}{kind}" for name in ("fft", "ifft", "rfft", "irfft") for kind in ("", "2", "n"))
_UPSAMPLED = (
    "nearest1d",
    "nearest2d",
    "nearest3d",
    "_nearest_exact1d",
    "_nearest_exact2d",
    "_nearest_exact3d",
    "linear1d",
    "bilinear2d",
    "trilinear3d",
    "bicubic2d",
    "_bilinear2d_aa",
    "_bicubic2d_aa",
)


def _upsamplings() -> list[Any]:
    names = [f"_upsample{name}" if name.startswith("_") else f"upsample_{name}" for name in _UPSAMPLED]
    return [getattr(getattr(aten, name), kind) for name in names for kind in ("default", "vec")]


_BY_DIM = _named("dim")

RULES: dict[Any, Rule] = {
    **dict.fromkeys((aten.log_softmax.int, aten._log_softmax.default), _kept(_BY_DIM)),
    **dict.fromkeys((aten.cumprod.default, aten.logcumsumexp.default), _kept(_BY_DIM)),
    **dict.fromkeys((aten.argsort.default, aten.argsort.stable), _kept(_BY_DIM)),
    **dict.fromkeys((getattr(aten, f"fft_{name}").default for name in _FOURIER), _kept(_BY_DIM)),
    **dict.fromkeys((aten.argmax.default, aten.argmin.default, aten.prod.dim_int), _reduced(_BY_DIM)),
    **dict.fromkeys((aten.any.dim, aten.any.dims, aten.all.dim, aten.all.dims), _reduced(_BY_DIM)),
    **dict.fromkeys((aten.logsumexp.default, aten.linalg_vector_norm.default), _reduced(_BY_DIM)),
    **dict.fromkeys((aten.topk.default, aten.sort.default, aten.sort.stable), _several(_BY_DIM)),
    **dict.fromkeys((aten.cummax.default, aten.cummin.default), _several(_BY_DIM)),
    **dict.fromkeys((aten.max.dim, aten.min.dim, aten.median.dim, aten.nanmedian.dim), _several(_BY_DIM)),
    **dict.fromkeys((aten.mode.default, aten.kthvalue.default, aten.aminmax.default), _several(_BY_DIM)),
    aten.unfold.default: _added(_named("dimension")),
    aten.one_hot.default: _one_hot,
    aten.view_as_real.default: _added(),
    aten.view_as_complex.default: _as_complex,
    **dict.fromkeys((aten.real.default, aten.imag.default), _in_place),
    aten.diagonal.default: _diagonal,
    **dict.fromkeys((aten.tril.default, aten.triu.default), _kept(_last(2))),
    **dict.fromkeys((aten.linalg_inv.default, aten.linalg_matrix_exp.default), _kept(_last(2))),
    **dict.fromkeys((aten.pixel_shuffle.default, aten.pixel_unshuffle.default), _kept(_last(3))),
    **dict.fromkeys((aten.channel_shuffle.default, aten.im2col.default), _kept(_last(3))),
    **dict.fromkeys((aten.avg_pool3d.default, aten.max_pool3d.default), _kept(_last(3))),
    aten.adaptive_avg_pool3d.default: _kept(_last(3)),
    aten.adaptive_max_pool1d.default: _several(_last(1)),
    aten.adaptive_max_pool2d.default: _several(_last(2)),
    **dict.fromkeys(_upsamplings(), _kept(_behind_channels)),
    aten.grid_sampler.default: _sampled,
}
