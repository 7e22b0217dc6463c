"""What every edit of a graph needs: a copy, no dead code, an order, and shapes in the end."""

from __future__ import annotations

from itertools import chain

from torch import fx, nn
from torch.fx._lazy_graph_module import _LazyGraphModule

from passes.errors import PassError
from passes.graph.dataflow import positions
from passes.graph.operators import writes_in_place
from passes.graph.shapes import propagate_shapes


def restore_order(module: fx.GraphModule) -> None:
    """Sort the nodes so that each runs after what it reads, otherwise as they were.

    Raises:
        PassError: there is no such order.
    """
    graph = module.graph
    place = positions(graph)
    done: set[fx.Node] = set()
    begun: set[fx.Node] = set()
    order: list[fx.Node] = []
    for root in list(graph.nodes):
        pending = [root]
        while pending:
            node = pending[-1]
            waiting = [source for source in node.all_input_nodes if source not in done]
            if node in done or not waiting:
                pending.pop()
                if node not in done:
                    done.add(node)
                    order.append(node)
                continue
            if node in begun:
                raise PassError(
                    f"{node.name} is computed from itself.", "This is a bug; please report it with the model."
                )
            begun.add(node)
            pending.extend(sorted(waiting, key=place.__getitem__, reverse=True))
    if order == list(graph.nodes):
        return
    previous = order[0]
    if previous is not next(iter(graph.nodes)):
        next(iter(graph.nodes)).prepend(previous)
    for node in order[1:]:
        previous.append(node)
        previous = node


def clone(module: fx.GraphModule) -> fx.GraphModule:
    """A copy of the graph that shares parameters and submodules and keeps node names and metadata.

    Its Python code is generated when it is first called: most graphs between two passes never are.
    """
    graph = fx.Graph()
    value: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        value[node] = graph.node_copy(node, value.__getitem__)
    graph._codegen = module.graph._codegen
    copied: fx.GraphModule = _LazyGraphModule(nn.Module(), fx.Graph()).train(module.training)
    copied.graph = graph
    copied.meta.update(module.meta)
    for mine, other in (
        (copied._modules, module._modules),
        (copied._parameters, module._parameters),
        (copied._buffers, module._buffers),
    ):
        mine.update(other)  # type: ignore[arg-type]  # three dictionaries, each with its own kind of values
    for name in {str(node.target).split(".")[0] for node in graph.find_nodes(op="get_attr")}:
        if not hasattr(copied, name):  # neither tensor nor module
            setattr(copied, name, getattr(module, name))
    return copied


def _without_unused(module: fx.GraphModule) -> fx.GraphModule:
    """The module, or one of the same graph without the tensors that no node reads."""
    read = {node.target for node in module.graph.find_nodes(op="get_attr")}
    held = chain(module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
    if all(name in read for name, _ in held):
        return module
    made = _LazyGraphModule(module, module.graph)
    made.meta.update(module.meta)
    return made


def eliminate_dead_code(module: fx.GraphModule) -> None:
    """Erase nodes whose values nobody reads, parameters too; inputs stay."""
    for node in reversed(module.graph.nodes):
        if not node.users and node.op in ("call_function", "get_attr"):
            module.graph.erase_node(node)


def refuse_writes(module: fx.GraphModule) -> None:
    """Refuse a graph that is not functional: a rewrite moves nodes, and a write in place forbids that.

    Raises:
        PassError: naming the first node that writes in place.
    """
    for node in module.graph.nodes:
        if writes_in_place(node):
            raise PassError(
                f"{node.name} ({node.target}) writes in place, so the graph cannot be rewritten.",
                "Capture the model with parallelize.capture, which replaces writes by their functional forms.",
            )


def finish(module: fx.GraphModule) -> fx.GraphModule:
    """Clean up after an edit: dead code, lint, shapes; parameters that no node reads go.

    The graph is the edited one, not a copy of it: nodes stay the same objects.

    Raises:
        PassError: the graph writes in place, so that what a node reads depends on when it runs.
    """
    refuse_writes(module)
    eliminate_dead_code(module)
    module.graph.lint()
    finished = _without_unused(module)
    propagate_shapes(finished)
    return finished


def erase_unread(node: fx.Node) -> None:
    """Erase a node that nothing reads, with what only it needed: so no reader is counted that is gone."""
    pending = [node]
    while pending:
        node = pending.pop()
        if node.users or node.op not in ("call_function", "get_attr") or node._erased:
            continue
        sources = node.all_input_nodes
        node.graph.erase_node(node)
        pending.extend(sources)
