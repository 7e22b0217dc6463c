"""Which axis of a state holds its channels: axis 1 where a term convolves the state as it lies, else the last one."""

from __future__ import annotations

from torch import fx

from passes.graph import operators as ops
from passes.graph.operators import aten
from passes.stacks.terms import Stack, Term

_CHANNELS_LAST = ops.ROW_NORMS | {ops.LINEAR, aten.transpose.int, aten.permute.default}


def convolves(term: Term, state: fx.Node) -> bool:
    """Whether a term convolves the state as it lies; a convolution inside (Conformer) may lie otherwise."""
    if any(user.target in _CHANNELS_LAST for user in state.users if user in term.inner):
        return False
    rank = state.meta["val"].ndim
    return any(node.target in ops.CONVOLUTIONS and node.meta["val"].ndim == rank for node in term.inner)


def channel_axis(stack: Stack) -> int:
    """1 or -1, the axis of the stack's states that holds the channels."""
    return 1 if any(convolves(term, term.skip) for term in stack.terms) else -1
