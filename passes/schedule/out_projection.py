"""The outer coefficients of a term: the linear or convolution whose output the term adds to the state.

In the form sum_j alpha_j sigma(W_j x + b_j) these are the alpha_j. A refit changes them and leaves the inner weights.

    contribution = gain * out(features)         gain: LayerScale, a stored factor for each channel; a sign, a number

Found on the way back from what a level adds up:
    1. a linear with stored weights, also behind a permutation to a channels-first state or a view of its rows;
    2. a convolution with stored weights that keeps the positions: its change is a 1x1 convolution, the centre tap;
    3. both operands of an add (an attention and an MLP that are one term); a multiple of the state has none.

The last term of a chain acts linearly on the sum, so a change goes into its weights. Other terms of a chain change what
the next one reads, and a term with a norm of its own is not linear in its features: theirs get a branch **apart**, a
linear from the features to the sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, fx

from passes.graph import operators as ops
from passes.graph.convolutions import convolution_settings
from passes.graph.dataflow import same_shape, tensor_value
from passes.graph.operators import aten
from passes.graph.parameters import add_parameter, has_stored_weights, read_parameter, replace_parameter
from passes.runner import Skip
from passes.schedule.sites import LevelSite
from passes.stacks.channels import convolves

_KEEP_ROWS = ops.VIEWS | ops.COPIES | ops.DROPOUTS
_QUOTIENTS = frozenset({aten.div.Tensor, aten.div.Scalar})
_GAINS = _QUOTIENTS | {aten.mul.Tensor, aten.mul.Scalar, aten.neg.default}
_POINTWISE_CONVOLUTIONS = {3: aten.conv1d.default, 4: aten.conv2d.default, 5: aten.conv3d.default}


@dataclass(frozen=True)
class OutProjection:
    """Outer coefficients of one term.

    Attributes:
        node: a linear or a convolution with stored weights.
        gains: the multiplications by stored factors and numbers, and the signs, between it and the sum.
        apart: whether a change must not touch the weights.
    """

    node: fx.Node
    gains: tuple[fx.Node, ...] = ()
    apart: bool = False

    @property
    def features(self) -> fx.Node:
        """What the coefficients combine."""
        source = self.node.args[0]
        assert isinstance(source, fx.Node)
        return source

    @property
    def axis(self) -> int:
        """The axis of the features."""
        return 1 if self.node.target in ops.CONVOLUTIONS else -1

    @property
    def width(self) -> int:
        """How many features there are."""
        return int(self.features.meta["val"].shape[self.axis])


@dataclass(frozen=True)
class LevelFeatures:
    """What a refit of one level may combine anew.

    Attributes:
        outs: the outer coefficients of the level's terms.
        source: the node that the affine part reads: a norm of the state that a term reads, or the state.
        axis: the axis of the state's channels, -1 or 1.
        skipped: terms without outer coefficients, each with the reason.
    """

    outs: tuple[OutProjection, ...]
    source: fx.Node
    axis: int
    skipped: tuple[Skip, ...]


def level_features(site: LevelSite) -> LevelFeatures:
    """Find the outer coefficients of a level's terms and what its affine part may read."""
    outs: list[OutProjection] = []
    skipped: list[Skip] = []
    axis = 1 if any(convolves(term, site.entry) for term in site.terms) else -1
    states = {site.entry, *(term.result for term in site.terms)}
    ends = {chain[-1] for chain in site.level.chains}
    numbers = [number for chain in site.level.chains for number in chain]
    for number, term, contribution in zip(numbers, site.terms, site.contributions, strict=True):
        apart = number not in ends or (bool(term.norms) and contribution.target == aten.sub.Tensor)
        summands = (term.output, *term.joined) if apart or contribution is term.output else (contribution,)
        for found in (part for summand in summands for part in _find(summand, axis, states, apart=apart)):
            (outs if isinstance(found, OutProjection) else skipped).append(found)  # type: ignore[arg-type]
    norms = [user for user in site.entry.users if user.target in ops.ROW_NORMS]
    return LevelFeatures(tuple(outs), norms[0] if norms and axis == -1 else site.entry, axis, tuple(skipped))


def _find(
    contribution: fx.Node, axis: int, states: AbstractSet[fx.Node], *, apart: bool
) -> Iterator[OutProjection | Skip]:
    """The outer coefficients behind a contribution, or why there are none."""
    node, gains, permuted = contribution, [], False
    while True:
        if node is not contribution and len(node.users) > 1:
            yield Skip(contribution.name, f"{node.name} is read by {len(node.users)} operators")
            return
        following = _behind(node, -1 if permuted else axis)
        if following is None:
            break
        if node.target in _GAINS:
            gains.append(node)
        permuted = permuted or _moves_channels_first(node)
        node = following
    if node.target == ops.ADD and not gains and not permuted and not node.kwargs:
        for operand in node.all_input_nodes:
            if _is_multiple(operand, axis, states):
                continue
            reason = _why_no_summand(operand, node)
            found = _find(operand, axis, states, apart=apart) if reason is None else [Skip(contribution.name, reason)]
            yield from found
        return
    reason = _why_no_projection(node, axis, permuted=permuted)
    if reason is None and apart and not _has_positions_of(node, contribution, axis):
        reason = f"the features of {node.name} do not lie as the state does"
    yield OutProjection(node, tuple(gains), apart) if reason is None else Skip(contribution.name, reason)


def _is_multiple(node: fx.Node | None, axis: int, states: AbstractSet[fx.Node]) -> bool:
    """Whether a value is a state times stored factors and numbers, as in f - 0.1 x."""
    while node is not None and node not in states and node.target in _GAINS:
        node = _behind(node, axis)
    return node in states


def _why_no_summand(operand: fx.Node, total: fx.Node) -> str | None:
    """Why a change of one operand of an add is not one of the sum; None if it is."""
    if len(operand.users) > 1 or total.args.count(operand) > 1:
        return f"{operand.name} is read more than once"
    if not same_shape(operand.meta["val"], total.meta["val"]):
        return f"{operand.name} does not lie as the state does"
    return None


def _behind(node: fx.Node, axis: int) -> fx.Node | None:
    """The node that this one takes on unchanged but for a stored gain or the order of its axes, or None."""
    source = node.args[0] if node.args else None
    if node.target == aten.neg.default:
        return cast("fx.Node", source)
    if node.target in _GAINS:
        return _without_gain(node, axis)
    if not isinstance(source, fx.Node):
        return None
    if node.target in _KEEP_ROWS and str(node.meta["val"].shape[-1]) == str(source.meta["val"].shape[-1]):
        return source
    return source if _moves_channels_first(node) else None


def _without_gain(node: fx.Node, axis: int) -> fx.Node | None:
    """What a product multiplies by a number or a stored factor, one or one for each channel on `axis`; else None."""
    if isinstance(node.args[0], fx.Node) and isinstance(node.args[1], (int, float)):
        return node.args[0]
    if node.target != aten.mul.Tensor:
        return None
    stored = [arg for arg in node.args if isinstance(arg, fx.Node) and arg.op == "get_attr"]
    others = [arg for arg in node.args if isinstance(arg, fx.Node) and arg not in stored]
    if len(stored) != 1 or len(others) != 1 or not same_shape(others[0].meta["val"], node.meta["val"]):
        return None
    factor = stored[0].meta["val"].shape
    sizes = [*[1] * (node.meta["val"].ndim - len(factor)), *factor]
    del sizes[axis]
    return others[0] if set(sizes) <= {1} else None


def _moves_channels_first(node: fx.Node) -> bool:
    """Whether the last axis becomes axis 1 and the others keep their order."""
    value = tensor_value(node)
    if value is None or value.ndim < 3:
        return False
    rank = value.ndim
    if node.target == aten.permute.default:
        axes = [axis % rank for axis in cast("list[int]", node.args[1])]
        return axes == [0, rank - 1, *range(1, rank - 1)]
    swapped = {int(axis) % rank for axis in node.args[1:] if isinstance(axis, int)}
    return node.target == aten.transpose.int and rank == 3 and swapped == {1, 2}


def _why_no_projection(node: fx.Node, axis: int, *, permuted: bool) -> str | None:
    """Why a node is no outer coefficients for a state with channels on `axis`; None if it is."""
    if node.target not in ops.PLAIN_CONVOLUTIONS and node.target != ops.LINEAR:
        return f"{node.name} is {node.target} and not a linear layer or convolution with stored weights"
    if not has_stored_weights(node):
        return f"the weights of {node.name} are computed and not stored"
    if node.target == ops.LINEAR:
        return None if permuted == (axis == 1) else f"the channels of {node.name} are not those of the state"
    return None if _keeps_positions(node) and axis == 1 else f"the convolution {node.name} is no sum over one position"


def _has_positions_of(node: fx.Node, contribution: fx.Node, axis: int) -> bool:
    """Whether the features of a linear or convolution lie as the state does, but for how many channels they have."""
    values = (node.args[0].meta["val"], contribution.meta["val"])  # type: ignore[union-attr]
    ours, theirs = ([str(size) for size in value.shape] for value in values)
    del ours[axis], theirs[axis]
    return ours == theirs


def _keeps_positions(node: fx.Node) -> bool:
    """Whether a convolution is ungrouped, of stride 1 and centred: its centre tap is a 1x1 convolution."""
    assert isinstance(node.args[1], fx.Node)
    kernel = [int(size) for size in node.args[1].meta["val"].shape[2:]]
    stride, padding, dilation, groups = convolution_settings(node)
    if groups != 1 or set(_each(stride, kernel)) != {1} or any(size % 2 == 0 for size in kernel):
        return False
    if isinstance(padding, str):
        return padding == "same" or kernel == [1] * len(kernel)
    spans = zip(_each(padding, kernel), _each(dilation, kernel), kernel, strict=True)
    return all(2 * pad == step * (size - 1) for pad, step, size in spans)


def _each(value: Sequence[int] | int, kernel: Sequence[int]) -> list[int]:
    """One value for each axis of the kernel."""
    values = [value] if isinstance(value, int) else list(value)
    return values if len(values) == len(kernel) else values * len(kernel)


def plain_norm(module: fx.GraphModule, norm: fx.Node) -> fx.Node:
    """A copy of a norm without gain and shift, inserted after it."""
    shape = norm.args[1]
    layer, epsilon = norm.target == ops.LAYER_NORM, ops.norm_epsilon(norm)
    with module.graph.inserting_after(norm):
        node = module.graph.call_function(
            norm.target,  # type: ignore[arg-type]
            (norm.args[0], shape, None, None, epsilon, False) if layer else (norm.args[0], shape, None, epsilon),
        )
    node.meta["val"] = norm.meta.get("val")
    return node


def change_out_projection(module: fx.GraphModule, out: OutProjection, change: Tensor) -> None:
    """Add `change` (channels of the state, features) to what a term adds to the state, for each feature.

    The weights are changed on a copy: whoever shares them keeps the old ones. A gain becomes part of them.
    """
    weight_node = out.node.args[1]
    assert isinstance(weight_node, fx.Node)
    weight = read_parameter(module, weight_node)
    gain = _fold_gains(module, out, weight.device)
    changed = weight.double() * gain.reshape(-1, *[1] * (weight.ndim - 1))
    at_centre = changed.flatten(2).select(2, changed[0, 0].numel() // 2) if changed.ndim > 2 else changed
    at_centre += change
    replace_parameter(module, out.node, 1, "refit_weight", changed.to(weight.dtype))
    if len(out.node.args) > 2 and isinstance(out.node.args[2], fx.Node) and out.gains:
        bias = read_parameter(module, out.node.args[2])
        replace_parameter(module, out.node, 2, "refit_bias", (bias.double() * gain.flatten()).to(bias.dtype))


def _fold_gains(module: fx.GraphModule, out: OutProjection, device: torch.device) -> Tensor:
    """Take the gains out of the graph; returns their product, one factor or one for each channel."""
    product = torch.ones(1, dtype=torch.float64, device=device)
    for gain in out.gains:
        stored = [arg for arg in gain.args if isinstance(arg, fx.Node) and arg.op == "get_attr"]
        if stored:
            product = product * read_parameter(module, stored[0]).double().flatten()
        elif gain.target == aten.neg.default:
            product = -product
        else:
            number = float(cast("float", gain.args[1]))
            product = product / number if gain.target in _QUOTIENTS else product * number
        gain.replace_all_uses_with(next(arg for arg in gain.args if arg not in stored))  # type: ignore[arg-type]
    return product


def add_branch(
    module: fx.GraphModule, total: fx.Node, source: fx.Node, weight: Tensor, bias: Tensor | None, axis: int
) -> fx.Node:
    """Add `weight` (channels, features) times `source`, at each position, to a sum; returns the new sum.

    Args:
        module: the graph, edited in place.
        total: the sum.
        source: what the branch reads.
        weight: of the new linear, or 1x1 convolution for channels on axis 1.
        bias: (channels,) or None.
        axis: the axis of the channels of `total`; the features of `source` are on it too.
    """
    users = list(total.users)
    with module.graph.inserting_after(total):
        added = module.graph.call_function(ops.ADD, (total, total))
    rank = total.meta["val"].ndim
    operator = ops.LINEAR if axis == -1 else _POINTWISE_CONVOLUTIONS[rank]
    shaped = weight if axis == -1 else weight.reshape(*weight.shape, *[1] * (rank - 2))
    stored = [add_parameter(module, "affine_weight", shaped, added)]
    if bias is not None:
        stored.append(add_parameter(module, "affine_bias", bias, added))
    with module.graph.inserting_before(added):
        branch = module.graph.call_function(operator, (source, *stored))
    added.args = (total, branch)
    for node in (branch, added):
        node.meta["val"] = total.meta.get("val")
    for user in users:
        user.replace_input_with(total, added)
    return added
