"""Tensor data flow: who computes whose values, leaving out shape arithmetic and reads of metadata.

`sym_size(x, 0)` makes a number that depends on x's shape and not on its values, so an edge through a size never
makes one tensor an ancestor of another. Neither does `table.type_as(x)` or `zeros_like(x)`, which read x's dtype or
shape (`passes.graph.operators.METADATA_ARGUMENTS`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeGuard

import torch
from torch import fx
from torch.utils import _pytree as pytree

from passes.graph.operators import METADATA_ARGUMENTS


def tensor_value(node: fx.Node) -> torch.Tensor | None:
    """The example value of a node that computes one tensor, else None."""
    value = node.meta.get("val")
    return value if isinstance(value, torch.Tensor) else None


def carries_tensors(node: fx.Node) -> bool:
    """Whether a node computes a tensor, or several as `unbind` and `split` do."""
    value = node.meta.get("val")
    if isinstance(value, (list, tuple, dict)):
        return any(isinstance(part, torch.Tensor) for part in pytree.tree_leaves(value))
    return isinstance(value, torch.Tensor)


def tensors_of(node: fx.Node) -> Iterator[torch.Tensor]:
    """The example values of the tensors that a node computes."""
    return (leaf for leaf in pytree.tree_leaves(node.meta.get("val")) if isinstance(leaf, torch.Tensor))


def is_float(node: fx.Node) -> bool:
    """Whether a node computes a floating-point tensor, or several values with one among them."""
    return any(tensor.is_floating_point() for tensor in tensors_of(node))


def values_read(node: fx.Node) -> list[fx.Node]:
    """The nodes whose values this node reads, each once; not those of which it reads shape or dtype only."""
    metadata = METADATA_ARGUMENTS.get(node.target)  # type: ignore[call-overload]
    if metadata is None:
        return node.all_input_nodes
    found: dict[fx.Node, None] = {}
    values = [arg for place, arg in enumerate(node.args) if place not in metadata]
    fx.map_arg([*values, *(value for name, value in node.kwargs.items() if name != "other")], found.setdefault)
    return list(found)


def tensor_inputs(node: fx.Node) -> Iterator[fx.Node]:
    """The nodes whose tensors this node reads."""
    return (source for source in values_read(node) if carries_tensors(source))


def value_users(node: fx.Node) -> Iterator[fx.Node]:
    """The nodes that compute tensors from the values of this one."""
    return (user for user in node.users if carries_tensors(user) and node in values_read(user))


def is_stored(node: fx.Node) -> bool:
    """Whether a value comes from parameters and constants only."""
    return all(origin.op != "placeholder" for origin in _origins(node))


def is_from_parameters(node: fx.Node) -> bool:
    """Whether a value comes from parameters and constants only, a parameter or buffer among them."""
    found = False
    for origin in _origins(node):
        if origin.op == "placeholder":
            return False
        found = found or origin.op == "get_attr"
    return found


def _origins(node: fx.Node) -> Iterator[fx.Node]:
    """Inputs, parameters and constants that a value is computed from."""
    pending, seen = [node], {node}
    while pending:
        current = pending.pop()
        read = list(tensor_inputs(current))
        fresh = [source for source in read if source not in seen]
        seen.update(fresh)
        pending.extend(fresh)
        if not read:
            yield current


def positions(graph: fx.Graph) -> dict[fx.Node, int]:
    """Each node's place in the order of execution."""
    return {node: place for place, node in enumerate(graph.nodes)}


def region_between(skip: fx.Node, output: fx.Node, place: dict[fx.Node, int]) -> list[fx.Node]:
    """Nodes on the tensor paths from `skip` to `output`, `output` included and `skip` left out, in execution order.

    Empty where `skip` is no ancestor of `output`. Looks only at nodes that run after `skip`.
    """
    start = place[skip]
    seen: set[fx.Node] = set()
    pending = [output]
    while pending:
        node = pending.pop()
        if node in seen or place[node] <= start:
            continue
        seen.add(node)
        pending.extend(tensor_inputs(node))
    reached: set[fx.Node] = {skip}
    region = []
    for node in sorted(seen, key=place.__getitem__):
        if any(source in reached for source in tensor_inputs(node)):
            reached.add(node)
            region.append(node)
    return region if output in reached else []


def descendants(sources: Iterable[fx.Node]) -> set[fx.Node]:
    """All nodes whose tensors depend on the values of `sources`, these included."""
    found: set[fx.Node] = set()
    pending = list(sources)
    while pending:
        node = pending.pop()
        if node in found:
            continue
        found.add(node)
        if carries_tensors(node):
            pending.extend(value_users(node))
    return found


def is_symbolic(value: object) -> TypeGuard[torch.SymInt]:
    """Whether a size is only known when the model runs."""
    return isinstance(value, torch.SymInt)


def same_shape(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two example values have equal shapes, symbols compared by expression (no guard is added)."""
    return left.ndim == right.ndim and all(str(a) == str(b) for a, b in zip(left.shape, right.shape, strict=True))


def canonical_walk(output: fx.Node, enter: Callable[[fx.Node], bool]) -> list[fx.Node]:
    """Post-order walk from `output` towards its inputs, arguments in their order, without recursion.

    Nodes for which `enter` is false are listed as leaves and not walked through. Two isomorphic subgraphs give lists
    that correspond element by element; every list is a topological order.
    """
    order: list[fx.Node] = []
    done: set[fx.Node] = set()
    pending: list[tuple[fx.Node, bool]] = [(output, False)]
    while pending:
        node, expanded = pending.pop()
        if node in done:
            continue
        if expanded or not enter(node):
            done.add(node)
            order.append(node)
            continue
        pending.append((node, True))
        pending.extend((source, False) for source in reversed(node.all_input_nodes))
    return order


def described(node: fx.Node) -> str:
    """A node with its operator and the user's module that it belongs to, where that is known."""
    stack: Iterable[Any] = (node.meta.get("nn_module_stack") or {}).values()
    paths = [str(path) for path, _ in stack if path]
    return f"{node.name} ({node.target}{f' in {paths[-1]}' if paths else ''})"
