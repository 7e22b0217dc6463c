"""Operators without a wide form run branch by branch; what stands around them is fused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from passes.fusion.fuse_width import FuseWidth
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
from tests.passes.term_functions import Branch, down, fuse, hidden, out, up
from tests.sampled import sampled

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


@pytest.mark.parametrize("count", sampled([2, 3], 2))
@pytest.mark.parametrize("branch", sampled(APART, 8))
def test_operators_without_a_wide_form_run_in_each_branch(branch: Branch, count: int) -> None:
    graph, fused, record = fuse(branch, count=count, free=False)
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
    _, _, record = fuse(APART["two of them with a rule between"], free=False)
    assert record.matches == ("add_3: 2 x linear_1 (rot90, renorm in each branch)",)


def test_operators_in_a_row_are_not_put_together_between() -> None:
    _, fused, _ = fuse(APART["two of them in a row"], free=False)
    names = [node.target for node in fused.graph.nodes if node.op == "call_function"]
    assert names.count(aten.cat.default) == 1
    assert names.count(aten.unbind.int) == 1


def test_each_branch_keeps_the_parameters_of_its_own_operator() -> None:
    _, fused, _ = fuse(APART["a recurrence between linears"], count=3, free=False)
    read = [str(node.args[2]) for node in fused.graph.nodes if node.target == aten.gru.input]
    assert len(set(read)) == 3
