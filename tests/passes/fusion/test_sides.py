"""Conditioning of blocks that terms on several levels read in pieces: stacked, and computed side by side."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.clean.remove_identities import RemoveIdentities
from passes.fusion.fuse_width import FuseWidth
from passes.graph.measures import operator_counts
from passes.plan import Form, Plan, grouped
from passes.runner import PassRecord
from passes.schedule.apply_plan import rewrite
from tests.passes.models import (
    WIDTH,
    fixed_graph_of,
    graph_of,
    normal,
    randomised,
    relative_error,
    run,
    text,
    tokens,
    wrong_metadata,
)
from tests.sampled import sampled

CONDITION = 6
Pieces = Callable[["Block", Tensor], Sequence[Tensor]]


def _modulation(block: Block, condition: Tensor) -> Tensor:
    y: Tensor = block.condition(F.silu(condition))
    return y


def _sliced(block: Block, condition: Tensor) -> list[Tensor]:
    y = _modulation(block, condition)[:, None]
    return [y[..., number * WIDTH : (number + 1) * WIDTH] for number in range(6)]


def _table(block: Block, condition: Tensor) -> tuple[Tensor, ...]:
    """One modulation that all blocks share, and a table of each block's own."""
    shared = torch.cat([condition] * (WIDTH * 6 // CONDITION), 1).view(-1, 6, WIDTH)
    return (shared + block.table).chunk(6, 1)


PIECES: dict[str, Pieces] = {
    "chunk": lambda s, c: _modulation(s, c)[:, None].chunk(6, -1),
    "chunk, then a new dimension": lambda s, c: [p.unsqueeze(1) for p in _modulation(s, c).chunk(6, 1)],
    "split": lambda s, c: _modulation(s, c).unsqueeze(1).split(WIDTH, -1),
    "unbind": lambda s, c: _modulation(s, c).view(-1, 6, 1, WIDTH).unbind(1),
    "slices": _sliced,
    "a table of each block": _table,
}


class Block(nn.Module):
    """Two MLP terms, each with shift, scale and gate from the conditioning."""

    def __init__(self, pieces: Pieces) -> None:
        super().__init__()
        self.pieces = pieces
        self.condition = nn.Linear(CONDITION, 6 * WIDTH)
        self.table = nn.Parameter(torch.empty(1, 6, WIDTH))
        self.first, self.second = (
            nn.Sequential(nn.Linear(WIDTH, 12), nn.GELU(), nn.Linear(12, WIDTH)) for _ in range(2)
        )

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        pieces = self.pieces(self, condition)
        for term, (shift, scale, gate) in ((self.first, pieces[:3]), (self.second, pieces[3:])):
            x = x + gate * term(F.layer_norm(x, (WIDTH,)) * (1 + scale) + shift)
        return x


class Conditioned(nn.Module):
    def __init__(self, pieces: Pieces, blocks: int, *, tells: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(pieces) for _ in range(blocks))
        self.tells = tells

    def forward(self, x: Tensor, condition: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        for block in self.blocks:
            x = block(x, condition)
        return (x, _modulation(self.blocks[0], condition)) if self.tells else x  # type: ignore[arg-type]


def _inputs(batch: int = 3) -> tuple[Tensor, Tensor]:
    return tokens(batch), normal(batch, CONDITION, seed=batch)


@functools.cache
def _fused(
    pieces: Pieces, blocks: int, group: int, form: Form = "sublayer"
) -> tuple[fx.GraphModule, fx.GraphModule, PassRecord]:
    capture = fixed_graph_of if form == "block" else graph_of
    graph, _ = run(capture(randomised(Conditioned(pieces, blocks)), *_inputs()), RemoveIdentities())
    terms = [(2 * block, 2 * block + 1) for block in range(blocks)]
    plan = grouped(2 * blocks, [terms[first : first + group] for first in range(0, blocks, group)], form)
    parallel, _ = rewrite(graph, Plan((plan,)))
    return parallel, *run(parallel, FuseWidth(), *_inputs())


@pytest.mark.parametrize("pieces", sampled(PIECES, 3))
def test_blocks_with_conditioning_in_pieces_are_fused_in_sublayer_form(pieces: Pieces) -> None:
    parallel, fused, record = _fused(pieces, 2, 2)
    assert record.skipped == ()
    assert len([line for line in record.matches if line.startswith("add")]) == 2
    for batch in (1, 4):
        assert relative_error(fused(*_inputs(batch)), parallel(*_inputs(batch))) < 1e-10
        assert wrong_metadata(fused, *_inputs(batch)) == []
    again, second = run(fused, FuseWidth())
    assert second.matches == ()
    assert text(again) == text(fused)


QUICK = {"chunk"}


@pytest.mark.parametrize(
    "pieces",
    [pytest.param(pieces, id=name, marks=() if name in QUICK else pytest.mark.slow) for name, pieces in PIECES.items()],
)
def test_the_conditioning_of_all_blocks_is_one_product_and_costs_nothing_for_more_of_them(pieces: Pieces) -> None:
    two, three = (_fused(pieces, blocks, blocks)[1] for blocks in (2, 3))
    assert operator_counts(two) == operator_counts(three)
    assert operator_counts(two).get("aten.linear.default", 0) == (0 if pieces is _table else 1)
    assert operator_counts(two).get("aten.stack.default", 0) == 0


def test_block_form_with_conditioning_in_pieces_is_fused_as_before() -> None:
    parallel, fused, record = _fused(PIECES["chunk"], 2, 2, "block")
    assert record.skipped == ()
    assert relative_error(fused(*_inputs()), parallel(*_inputs())) < 1e-10


def test_conditioning_that_something_else_reads_too_stays_and_its_pieces_are_stacked() -> None:
    graph, _ = run(
        fixed_graph_of(randomised(Conditioned(PIECES["chunk"], 2, tells=True)), *_inputs()), RemoveIdentities()
    )
    parallel, _ = rewrite(graph, Plan((grouped(4, [[(0, 1), (2, 3)]]),)))
    fused, record = run(parallel, FuseWidth(), *_inputs())
    assert record.skipped == ()
    assert len([line for line in record.matches if line.startswith("add")]) == 2
    for actual, expected in zip(fused(*_inputs()), parallel(*_inputs()), strict=True):
        assert relative_error(actual, expected) < 1e-10
