"""Run a cast graph as a backend would, beside the graph that it was cast from, and find where its range ends.

    float16(1e5) = inf        1e5 - 1e5 = 0, inf - inf = NaN

On the CPU PyTorch keeps the scores of an attention and the sums of a product in float32, whatever the dtype. Sums are
kept so by GPUs, too, and products are computed so here and rounded, which is faster; scores are not, so an attention
with a score beyond the range is no number here, and so is one that can see nothing else.

A value that is infinite in between is harmless where what follows is right, as in tanh or 1 / (1 + exp(-x)). So one
goes back from outputs that are wrong, through values that are, to those of which no source is: there the range ends.
Outputs of integers hide NaN; in their place stand the values that they are computed from.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from passes.graph import operators as ops
from passes.graph.dataflow import is_float, tensor_inputs
from passes.graph.operators import gemms
from passes.graph.outputs import flat_leaves
from passes.precision.islands import CONVERSIONS

HALVES = (torch.float16, torch.bfloat16)
Values = Mapping[str, Any]


class HalfArithmetic(fx.Interpreter):
    """Runs a graph of half precision and keeps some of its values.

    Attributes:
        values: of the nodes that were to be kept, by name.
    """

    def __init__(self, module: fx.GraphModule, keep: Collection[str] | None = None) -> None:
        """Keep the values of the nodes with these names, or of all."""
        super().__init__(module)
        self.keep = keep
        self.values: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """The value of a node."""
        value = self._product(n) if gemms(n) else super().run_node(n)
        if self.keep is None or n.name in self.keep:
            self.values[n.name] = value
        return value

    def _product(self, node: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        halves = {leaf.dtype for leaf in pytree.tree_leaves((args, kwargs)) if _is_half(leaf)}
        if len(halves) != 1:
            return self.call_function(node.target, args, kwargs)
        (half,) = halves
        wide = pytree.tree_map(lambda leaf: leaf.float() if _is_half(leaf) else leaf, (args, kwargs))
        value = self.call_function(node.target, *wide)
        if node.target == ops.ATTENTION:
            value = torch.where(_lost_rows(half, *wide[0], **wide[1]), math.nan, value)
        return value.to(half)


def _is_half(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and leaf.dtype in HALVES


def _lost_rows(
    half: torch.dtype,
    query: Tensor,
    key: Tensor,
    value: Tensor,  # noqa: ARG001  (as the operator has it)
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """(..., queries, 1): rows of an attention with a score above the range, or with none above its lower end."""
    limit, factor = torch.finfo(half).max, query.shape[-1] ** -0.5 if scale is None else scale
    bound = query.norm(dim=-1).amax() * key.norm(dim=-1).amax() * abs(factor) if query.numel() and key.numel() else 0.0
    added = attn_mask is not None and attn_mask.is_floating_point()
    high = low = 0.0
    if attn_mask is not None and added and attn_mask.numel():
        high, low = float(attn_mask.max()), float(attn_mask.amax(-1).min())  # low: of the row that sees least
    if float(bound) + max(high, 0.0) <= limit / 2 and float(bound) - low <= limit:
        return query.new_zeros((), dtype=torch.bool)
    rank = max(query.ndim, key.ndim)
    samples = max(len(x) for x in (query, key) if x.ndim == rank) if rank > 2 else 1
    parts = []
    for place in range(samples):  # one at a time: scores are large
        q, k = _of_sample(query, place, rank), _of_sample(key, place, rank)
        k = k.repeat_interleave(q.shape[-3] // k.shape[-3], -3) if enable_gqa else k
        scores = (q @ k.mT) * factor
        if is_causal:
            scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), -math.inf)
        if attn_mask is not None:
            mask = _of_sample(attn_mask, place, rank)
            scores = scores + mask if added else scores.masked_fill(~mask, -math.inf)
        most = scores.amax(-1, keepdim=True)
        parts.append(most.to(half).isinf())
    return torch.stack(parts) if rank > 2 else parts[0]


def _of_sample(value: Tensor, place: int, rank: int) -> Tensor:
    """What one sample reads of a value that may be the same for all of them, or has no samples."""
    if value.ndim < rank or rank == 2:
        return value
    return value[place if len(value) > 1 else 0]


# ------------------------------------------------------------------------------------------------- where the range ends


@dataclass(frozen=True)
class Ends:
    """Where half precision fails on a batch.

    Attributes:
        values: names, in the graph before the cast, of values that half precision cannot hold or cannot compute.
        first: the first of them, or the value that it is cast from.
        size: its largest magnitude in full precision.
    """

    values: tuple[str, ...]
    first: str
    size: float


def watched(module: fx.GraphModule) -> list[str]:
    """Names of the floating-point values that outputs are, or that outputs of integers are computed from."""
    found: dict[str, None] = {}
    pending, seen = list(reversed(flat_leaves(module))), set()
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        if is_float(node):
            found[node.name] = None
        else:
            pending.extend(tensor_inputs(node))
    return list(found)


def ends_of_range(
    module: fx.GraphModule, cast: fx.GraphModule, inputs: Sequence[Any], real: Mapping[str, Tensor]
) -> Ends | None:
    """Compare a batch in both graphs, value by value.

    Args:
        module: the graph before the cast.
        cast: the graph after it; nodes that were there before have their names.
        inputs: of both; all values are kept, so few samples.
        real: for nodes by name where they are real, bool that spreads over the value; all of the others counts.

    Returns:
        None where all that is watched is right.
    """
    run, half = HalfArithmetic(module), HalfArithmetic(cast)
    with torch.no_grad():
        for interpreter in (run, half):
            interpreter.run(*inputs, enable_io_processing=False)
    nodes = {node.name: node for node in cast.graph.nodes}
    origin = {node: _origin(node, run.values) for node in cast.graph.nodes}
    wrong = {
        node
        for node, name in origin.items()
        if name is not None and is_wrong(run.values[name], half.values[node.name], real.get(name))
    }
    ends: dict[fx.Node, None] = {}
    pending = [nodes[name] for name in watched(module) if name in nodes and nodes[name] in wrong]
    pending += [leaf for leaf in flat_leaves(cast) if leaf in wrong]
    seen: set[fx.Node] = set()
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        sources = [source for source in node.all_input_nodes if source in wrong]
        pending.extend(sources)
        if not sources:
            ends[node] = None
    if not ends:
        return None
    ordered = [node for node in cast.graph.nodes if node in ends]
    names = list(dict.fromkeys(str(origin[node]) for node in ordered))
    return Ends(tuple(names), names[0], _largest(run.values[names[0]]))


def _origin(node: fx.Node, values: Values) -> str | None:
    """The node before the cast that computes the same value: of that name, or what a new cast reads."""
    while node.name not in values:
        if node.target not in CONVERSIONS and node.target != ops.aten.clamp.default:
            return None
        node = node.args[0]  # type: ignore[assignment]  # a cast reads a node
    return node.name


def is_wrong(reference: Any, value: Any, real: Tensor | None = None) -> bool:
    """Whether a value has a number that counts where the reference's is finite and its own is not."""
    pairs = zip(pytree.tree_leaves(reference), pytree.tree_leaves(value), strict=False)
    for r, v in pairs:
        if not isinstance(r, Tensor) or not isinstance(v, Tensor) or not v.is_floating_point() or r.shape != v.shape:
            continue
        wrong = r.isfinite() & ~v.isfinite()
        if (wrong if real is None or real.ndim != wrong.ndim else wrong & real).any():
            return True
    return False


def _largest(value: Any) -> float:
    tensors = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    finite = [tensor[tensor.isfinite()].abs() for tensor in tensors]
    return max((float(sizes.max()) for sizes in finite if sizes.numel()), default=0.0)


def kept_for_range(
    module: fx.GraphModule, ends: Ends, kept: Collection[str], values: Values, half: torch.dtype
) -> frozenset[str]:
    """Which nodes must stay in full precision, so that the values of `ends` are never held in half.

    A value that is out of range takes with it all that read it, and those of them that are out of range as well. One
    that stays already and is wrong all the same reads values that half precision has rounded to zero: they stay, too.

    Args:
        module: the graph before the cast.
        ends: where half precision fails.
        kept: names that stay already.
        values: of the graph before the cast.
        half: the dtype of the cast.
    """
    nodes = {node.name: node for node in module.graph.nodes}
    limit = torch.finfo(half).max
    found = set(kept)
    for name in ends.values:
        if name in kept:
            found |= _before(nodes[name], kept)
    pending, seen = [nodes[name] for name in ends.values], set()
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        found |= {one.name for one in (node, *node.users) if _is_computed(one)}
        pending.extend(one for one in node.users if one.name in values and limit < _largest(values[one.name]))
    return frozenset(found)


def _before(node: fx.Node, kept: Collection[str]) -> set[str]:
    """The nearest values before a node that do not stay yet."""
    found, pending, seen = set(), [node], set()
    while pending:
        for source in tensor_inputs(pending.pop()):
            if source in seen or not _is_computed(source):
                continue
            seen.add(source)
            if source.name in kept:
                pending.append(source)
            else:
                found.add(source.name)
    return found


def _is_computed(node: fx.Node) -> bool:
    return node.op == "call_function" and is_float(node)
