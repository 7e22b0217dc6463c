"""The weights of a graph that are trained, as a function of private parameters.

    all, outer    W = P                  P starts as a copy of W
    lora          W = W_0 + B A          A (rank, in) random, B (out, rank) zero at the start

A graph shares its tensors with the graph it was made from, so nothing of it is changed: a student is the graph with
its trained get_attr nodes as inputs, and `merged` stores the final values under new names in a copy. Half-precision
weights are trained in float32.

Nodes of one tensor stay tied: they read one parameter. Where tensors overlap in memory without being equal, as a
matrix and its transpose, the parameter is the memory that they share.
Not trained: buffers, integers, and tensors with values that are not finite, such as masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from parallelize.healing.options import HealOptions
from parallelize.models.placement import held
from passes.errors import ParallelizeError
from passes.graph import operators as ops
from passes.graph.dataflow import tensor_inputs
from passes.graph.editing import clone, finish
from passes.graph.operators import gemms
from passes.graph.parameters import is_learned, read_parameter, register_parameter
from passes.plan import Plan
from passes.stacks.find import Stack

_SCALES = ops.NORMS | {ops.aten.mul.Tensor}


@dataclass(frozen=True)
class Weight:
    """One trained tensor of the graph.

    Attributes:
        nodes: the get_attr nodes that read it.
        leaves: the parameters that it is computed from.
        value: computes it.
    """

    nodes: tuple[fx.Node, ...]
    leaves: tuple[nn.Parameter, ...]
    value: Callable[[], Tensor]


def trainable(
    module: fx.GraphModule,
    stacks: Sequence[Stack],
    plan: Plan,
    ends: Iterable[str],
    options: HealOptions,
    device: torch.device,
) -> tuple[Weight, ...]:
    """Choose what is trained and make private parameters for it on `device`.

    Args:
        module: a rewritten graph.
        stacks: the teacher's.
        plan: what `module` was rewritten by.
        ends: names of states in `module`.
        options: what to train, the rank and the seed.
        device: where to train.

    Raises:
        ParallelizeError: the graph has nothing of what is asked for.
    """
    wanted = set(_chosen(module, stacks, plan, ends, options))
    clusters = [cluster for cluster in _clusters(module) if not wanted.isdisjoint(node for node, _ in cluster)]
    generator = torch.Generator().manual_seed(options.seed)
    weights: list[Weight] = []
    for cluster in clusters:
        tied = _tied(cluster)
        if len(tied) > 1:
            weights.extend(_overlapping(tied, device))
        elif options.train == "lora":
            weights.append(_adapted(*tied[0], options.rank, generator, device))
        else:
            weights.append(_whole(*tied[0], device))
    if not weights:
        raise ParallelizeError(
            f"The rewritten model has no weights to train with {options.train!r}.", "Train all of them."
        )
    return tuple(weights)


def leaves_of(weights: Sequence[Weight]) -> list[nn.Parameter]:
    """The parameters of all weights, each once."""
    return list(dict.fromkeys(leaf for weight in weights for leaf in weight.leaves))


def merged(module: fx.GraphModule, weights: Sequence[Weight]) -> fx.GraphModule:
    """A copy of the graph with the weights' present values, in the graph's dtypes and on its device."""
    made = clone(module)
    by_name = {node.name: node for node in made.graph.find_nodes(op="get_attr")}
    for weight in weights:
        old = read_parameter(module, weight.nodes[0])
        with torch.no_grad():
            name = register_parameter(made, "healed", weight.value().detach().to(old.device, copy=True))
        for node in weight.nodes:
            by_name[node.name].target = name
    return finish(made)


def _chosen(
    module: fx.GraphModule, stacks: Sequence[Stack], plan: Plan, ends: Iterable[str], options: HealOptions
) -> Iterator[fx.Node]:
    if options.train == "all":
        return iter(module.graph.find_nodes(op="get_attr"))
    return _outer(module, stacks, ends) if options.train == "outer" else _rewritten(module, stacks, plan)


def _outer(module: fx.GraphModule, stacks: Sequence[Stack], ends: Iterable[str]) -> Iterator[fx.Node]:
    """Parameters of norms, vectors that scale, and of the products that a state is the sum of."""
    entries, wanted = {stack.entry.name for stack in stacks}, set(ends)
    pending = [node for node in module.graph.nodes if node.name in wanted]
    seen: set[fx.Node] = set()
    while pending:
        node = pending.pop()
        if node in seen or node.name in entries:
            continue
        seen.add(node)
        if gemms(node):
            yield from (source for source in node.all_input_nodes if source.op == "get_attr")
        else:
            pending.extend(tensor_inputs(node))
    for node in module.graph.nodes:
        if node.target in _SCALES:
            yield from (source for source in node.all_input_nodes if source.op == "get_attr")


def _rewritten(module: fx.GraphModule, stacks: Sequence[Stack], plan: Plan) -> Iterator[fx.Node]:
    """Weights of the linears of levels with several terms, and of those that a refit has added."""
    names = {
        node.name
        for stack, part in zip(stacks, plan.stacks, strict=True)
        for level in part.levels
        if len(level.terms) > 1
        for term in level.terms
        for node in stack.terms[term].inner
    }
    before = {node.name for stack in stacks[:1] for node in stack.entry.graph.nodes}
    for node in module.graph.nodes:
        if node.target != ops.LINEAR or (node.name in before and node.name not in names):
            continue
        if isinstance(node.args[1], fx.Node) and node.args[1].op == "get_attr":
            yield node.args[1]


def _clusters(module: fx.GraphModule) -> list[list[tuple[fx.Node, Tensor]]]:
    """The graph's parameters that may be trained, those together whose memory overlaps, in the order of the graph."""
    held = [
        (node, read_parameter(module, node)) for node in module.graph.find_nodes(op="get_attr") if _may(module, node)
    ]
    order = {node: place for place, (node, _) in enumerate(held)}
    clusters: list[list[tuple[fx.Node, Tensor]]] = []
    end = 0
    for node, tensor in sorted(held, key=lambda pair: pair[1].data_ptr()):
        if not clusters or tensor.data_ptr() >= end:
            clusters.append([])
        clusters[-1].append((node, tensor))
        end = max(end, tensor.data_ptr() + _extent(tensor) * tensor.itemsize)
    for cluster in clusters:
        cluster.sort(key=lambda pair: order[pair[0]])
    return sorted(clusters, key=lambda cluster: order[cluster[0][0]])


def _may(module: fx.GraphModule, node: fx.Node) -> bool:
    if not is_learned(module, node):
        return False
    tensor = read_parameter(module, node)
    return tensor.is_floating_point() and tensor.numel() > 0 and bool(tensor.isfinite().all())


def _extent(tensor: Tensor) -> int:
    """Elements from the first to the last in memory."""
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _tied(cluster: Sequence[tuple[fx.Node, Tensor]]) -> list[tuple[tuple[fx.Node, ...], Tensor]]:
    """The different tensors of a cluster, each with its nodes."""
    found: dict[object, tuple[list[fx.Node], Tensor]] = {}
    for node, tensor in cluster:
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        found.setdefault(key, ([], tensor))[0].append(node)
    return [(tuple(nodes), tensor) for nodes, tensor in found.values()]


def _private(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy in float32 at least."""
    return tensor.detach().to(device, torch.promote_types(tensor.dtype, torch.float32), copy=True)


def _whole(nodes: tuple[fx.Node, ...], tensor: Tensor, device: torch.device) -> Weight:
    leaf = nn.Parameter(_private(tensor, device))
    return Weight(nodes, (leaf,), lambda: leaf.to(tensor.dtype))


def _overlapping(tied: Sequence[tuple[tuple[fx.Node, ...], Tensor]], device: torch.device) -> Iterator[Weight]:
    """Several views of one memory: the parameter is the memory, and each weight a view of it."""
    first = min((tensor for _, tensor in tied), key=Tensor.data_ptr)
    places = [(t.data_ptr() - first.data_ptr()) // t.itemsize for _, t in tied]
    length = max(place + _extent(tensor) for place, (_, tensor) in zip(places, tied, strict=True))
    leaf = nn.Parameter(_private(first.as_strided((1, length), (length, 1)), device))
    for place, (nodes, tensor) in zip(places, tied, strict=True):
        yield Weight(nodes, (leaf,), _view(leaf, tensor, place))


def _view(leaf: nn.Parameter, tensor: Tensor, place: int) -> Callable[[], Tensor]:
    return lambda: leaf.as_strided(tensor.shape, tensor.stride(), place).to(tensor.dtype)


def _adapted(
    nodes: tuple[fx.Node, ...], tensor: Tensor, rank: int, generator: torch.Generator, device: torch.device
) -> Weight:
    """A matrix (out, in), and what two thin matrices add to it."""
    base, dtype = held(tensor, device), torch.promote_types(tensor.dtype, torch.float32)
    rank = min(rank, *tensor.shape)
    down = torch.randn(rank, tensor.shape[1], generator=generator, dtype=dtype) / tensor.shape[1] ** 0.5
    inner = nn.Parameter(down.to(device))
    outer = nn.Parameter(torch.zeros(tensor.shape[0], rank, dtype=dtype, device=device))
    return Weight(nodes, (inner, outer), lambda: base + (outer @ inner).to(base.dtype))
