"""Operators without a wide form run branch by branch; what stands around them is fused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.fusion.emitter import Branches, Emitter
from passes.fusion.fuse_width import FuseWidth
from passes.fusion.layout import CannotLiftError
from passes.fusion.lift import Lifter
from passes.graph.dataflow import canonical_walk
from passes.graph.operators import NORMS, gemms
from tests.passes.models import (
    HIDDEN,
    TOKENS,
    WIDTH,
    normal,
    relative_error,
    run,
    text,
    tokens,
    wrong_metadata,
)
from tests.passes.term_functions import Branch, down, fuse, hidden, level, out, up

aten = torch.ops.aten


def _turned(x: Tensor) -> Tensor:
    return torch.rot90(x, 2, (1, -1))


APART = {
    "an operator without a rule": hidden(lambda s, h: _turned(h)),
    "two of them in a row": hidden(lambda s, h: torch.renorm(_turned(h), 2, 0, 1.0)),
    "two of them with a rule between": hidden(lambda s, h: torch.renorm(_turned(h) + 1.0, 2, 0, 1.0)),
    "one that reads two values": hidden(lambda s, h: h.masked_scatter(h > 0, h.tanh())),
    "one with a shared value": hidden(lambda s, h, g: h.masked_scatter(g > 0, g), normal(3, TOKENS, HIDDEN)),
    "one with a parameter": hidden(
        lambda s, h: h + torch.take(s.gain, (h > 0).long()), gain=lambda: torch.empty(HIDDEN)
    ),
    "one with a parameter that is computed": hidden(
        lambda s, h: h + torch.take(1.0 + s.gain, (h > 0).long()), gain=lambda: torch.empty(HIDDEN)
    ),
    "two results": hidden(lambda s, h: sum(torch.frexp(h)[:1])),
    "a row of results": hidden(lambda s, h: torch.cat(torch.split_with_sizes_copy(h, [5, 7], -1)[::-1], -1)),
    "a normalised state": Branch(
        lambda s, x: s.down(torch.relu(s.up(_turned(s.norm(x))))),
        {"norm": lambda: nn.LayerNorm(WIDTH), "up": up, "down": down},
    ),
    "at the end": out(lambda s, y: _turned(y)),
    "before the out-projection": Branch(lambda s, x: s.down(_turned(s.up(x))), {"up": up, "down": down}),
    "heads of all branches": hidden(
        lambda s, h: _turned(h.view(*h.shape[:2], 4, 3).transpose(1, 2)).transpose(1, 2).reshape(h.shape)
    ),
    "the largest value of all": hidden(lambda s, h: h * _turned(h).max()),
    "a reduction of everything": hidden(lambda s, h: h * h.sum((0, 1, 2), keepdim=True)),
    "a recurrence between linears": Branch(
        lambda s, x: s.down(s.middle(s.up(x))[0]),
        {"up": up, "middle": lambda: nn.GRU(HIDDEN, HIDDEN, batch_first=True), "down": down},
    ),
}


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("branch", APART.values(), ids=APART.keys())
def test_operators_without_a_wide_form_run_in_each_branch(branch: Branch, count: int) -> None:
    graph, fused, record = fuse(branch, count=count)
    assert record.skipped == ()
    assert len(record.matches) == 1
    assert "in each branch" in record.matches[0]
    counts = [sum(gemms(node) + (node.target in NORMS) for node in g.graph.nodes) for g in (graph, fused)]
    assert counts[1] < counts[0]
    inputs = (tokens(), *branch.sides)
    assert relative_error(fused(*inputs), graph(*inputs)) < 1e-10
    assert wrong_metadata(fused, *inputs) == []
    again, _ = run(fused, FuseWidth())
    assert text(again) == text(fused)


def test_the_match_names_what_runs_in_each_branch() -> None:
    _, _, record = fuse(APART["two of them with a rule between"])
    assert record.matches == ("add_3: 2 x linear_1 (rot90, renorm in each branch)",)


def test_operators_in_a_row_are_not_put_together_between() -> None:
    _, fused, _ = fuse(APART["two of them in a row"])
    names = [node.target for node in fused.graph.nodes if node.op == "call_function"]
    assert names.count(aten.cat.default) == 1
    assert names.count(aten.unbind.int) == 1


def test_each_branch_keeps_the_parameters_of_its_own_operator() -> None:
    _, fused, _ = fuse(APART["a recurrence between linears"], count=3)
    read = [str(node.args[2]) for node in fused.graph.nodes if node.target == aten.gru.input]
    assert len(set(read)) == 3


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
    graph = level(branch)
    before, lifter = text(graph), _lifter(graph)
    with pytest.raises(CannotLiftError, match=reason):
        lifter.lift()
    assert text(graph) == before
