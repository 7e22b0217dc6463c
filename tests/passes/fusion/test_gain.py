"""Branches of which nothing would run less often stay as they are, with the reason."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.fusion.emitter import Branches, Emitter
from passes.fusion.layout import CannotLiftError
from passes.fusion.lift import Lifter
from passes.graph.dataflow import canonical_walk
from tests.passes.models import WIDTH, text
from tests.passes.term_functions import Branch, hidden, level


def _lifter(graph: fx.GraphModule) -> Lifter:
    """A lifter of the summands of a graph that ends in x + a + b."""
    root = next(iter(graph.graph.find_nodes(op="output"))).all_input_nodes[0]
    outputs = [node for total in (root.args[0], root) for node in total.args[1:]]
    lists = [canonical_walk(output, lambda node: node.op == "call_function") for output in outputs]
    inner = frozenset(node for nodes in lists for node in nodes if node.op == "call_function")
    branches = Branches(tuple(map(tuple, lists)), tuple((output,) for output in outputs), inner)
    return Lifter(Emitter(graph, branches, root, {}))


LEFT = {
    "a recurrence": (
        Branch(lambda s, x: s.rnn(x)[0], {"rnn": lambda: nn.GRU(WIDTH, WIDTH, batch_first=True)}),
        r"gru \(aten.gru.input\) is a recurrence, which has no wide form",
    ),
    "a single operator": (
        Branch(lambda s, x: torch.take(s.gain, (x > 0).long()), {"gain": lambda: torch.empty(WIDTH)}),
        "no wide form is known",
    ),
    "values that are drawn": (
        hidden(lambda s, h: F.dropout(h, 0.5, training=True)),
        r"dropout \(aten.dropout.default\) draws random values, which the branches must not share",
    ),
    "sizes that only the data tell": (
        hidden(lambda s, h: h * torch.nonzero(h > 0).sum()),
        r"nonzero \(aten.nonzero.default\) has a size that only the data tell",
    ),
}


@pytest.mark.parametrize(("branch", "reason"), LEFT.values(), ids=LEFT.keys())
def test_branches_of_which_nothing_would_become_fewer_stay_with_the_reason(branch: Branch, reason: str) -> None:
    graph = level(branch, free=False)
    before, lifter = text(graph), _lifter(graph)
    with pytest.raises(CannotLiftError, match=reason):
        lifter.lift()
    assert text(graph) == before
