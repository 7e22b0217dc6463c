"""Whether lifted branches are worth it: what runs less often, and branches of which nothing would.

Refused: branches that would run no fewer operators than before, such as a recurrence alone, or norms of values that are
put together first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import fx

from passes.fusion.contraction import Contraction, Part
from passes.fusion.emitter import Emitter
from passes.fusion.layout import CannotLiftError, Lifted
from passes.graph import operators as ops

aten = ops.aten

# Of these, none computes or copies anything in a graph that is compiled.
_FREE = ops.VIEWS | ops.REARRANGEMENTS | {aten.expand.default, ops.GETITEM, ops.MULTIPLY}


def refuse_without_gain(emitter: Emitter, results: Sequence[Lifted | Part], sides: Sequence[fx.Node]) -> None:
    """Refuse branches that would run neither fewer products, nor fewer norms and fewer operators in all.

    Raises:
        CannotLiftError: why the first operator runs in each branch by itself.
    """
    inner = [node for node in emitter.branches.lists[0] if node in emitter.branches.inner]
    if not emitter.apart and _products(inner):
        return
    parts = [result for result in results if isinstance(result, Part)]
    products = sum(isinstance(part, Contraction) for part in parts)
    if _products(emitter.created) + products < emitter.count * _products(inner):
        return
    fewer_norms = _norms(emitter.created) < emitter.count * _norms(inner)
    cost = _costs(emitter.created) + emitter.moves + products + len(parts)
    saves = cost < emitter.count * (_costs(inner) + len(parts))
    if not emitter.apart and (sides or not saves):  # to put values together costs as much as what runs on them
        raise CannotLiftError(f"{inner[-1].name} holds no matrix product, and side by side nothing runs less often")
    if emitter.apart and not (fewer_norms and saves):
        raise next(iter(emitter.apart.values()))


def _products(nodes: Iterable[fx.Node]) -> int:
    return sum(ops.gemms(node) for node in nodes)


def _norms(nodes: Iterable[fx.Node]) -> int:
    return sum(node.target in ops.NORMS for node in nodes)


def _costs(nodes: Iterable[fx.Node]) -> int:
    return sum(node.op == "call_function" and node.target not in _FREE for node in nodes)
