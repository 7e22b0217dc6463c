"""One shape for the state: a residual add on a reshaped state becomes an add on the state itself.

    view(add(reshape(x), f), sizes of x)  ->  add(x, reshape(f, sizes of x))

Some models (OPT) flatten batch and tokens before an MLP and undo it after the residual add, so that the state changes
its shape twice in each block. An add is elementwise: both forms have the same bits.
"""

from __future__ import annotations

from torch import fx

from passes import operators as ops
from passes.dataflow import same_shape, tensor_value
from passes.infra import eliminate_dead_code


def keep_state_shape(module: fx.GraphModule) -> int:
    """Rewrite, in place, every add between a reshape of a tensor and the view that undoes it.

    Returns:
        How many adds were rewritten.
    """
    count = 0
    for node in list(module.graph.nodes):
        operands = _state_and_term(node)
        if operands is None:
            continue
        _rewrite(module, node, *operands)
        count += 1
    if count:
        eliminate_dead_code(module)
        module.recompile()
    return count


def _state_and_term(view: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """The reshaped tensor whose shape `view` restores, and what the add adds to it; None if `view` is another one."""
    add = view.args[0] if view.op == "call_function" and view.target in ops.VIEWS else None
    if not isinstance(add, fx.Node) or add.target not in ops.ADDS or add.kwargs or len(add.users) != 1:
        return None
    for reshaped, term in (add.args, tuple(reversed(add.args))):
        if not isinstance(reshaped, fx.Node) or not isinstance(term, fx.Node) or reshaped.target not in ops.VIEWS:
            continue
        state = reshaped.args[0]
        if isinstance(state, fx.Node) and _same(reshaped, term) and _same(state, view):
            return state, term
    return None


def _same(left: fx.Node, right: fx.Node) -> bool:
    a, b = tensor_value(left), tensor_value(right)
    return a is not None and b is not None and a.dtype == b.dtype and same_shape(a, b)


def _rewrite(module: fx.GraphModule, view: fx.Node, state: fx.Node, term: fx.Node) -> None:
    add = view.args[0]
    assert isinstance(add, fx.Node)
    with module.graph.inserting_before(view):
        moved = module.graph.call_function(ops.aten.reshape.default, (term, view.args[1]))
        total = module.graph.call_function(ops.ADD, (state, moved))
    for node, origin in ((moved, term), (total, add)):
        node.meta.update(origin.meta)
        node.meta["val"] = view.meta["val"]
    view.replace_all_uses_with(total)
