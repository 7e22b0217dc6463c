"""Views move past operators that compute row by row, and rows are joined where fewer views are needed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.fusion.fuse_width import FuseWidth
from passes.fusion.move_views import MoveViews
from passes.runner import run_passes
from passes.schedule.apply_plan import ApplyPlan
from passes.stacks.find import find_stacks
from tests.passes.eager import vision_output, vision_steps
from tests.passes.models import Levels, images, normal, plan_of, relative_error, run, text, vision, wrong_metadata
from tests.passes.views import Forward, captured, operators, rewritten

GAIN = normal(6)


def _with_its_reverse(x: Tensor) -> Tensor:
    return x + x.flip(0)


MOVES: dict[str, tuple[Forward, list[str]]] = {
    "past a pointwise operator": (lambda x: x.flatten(0, 1).sin().unflatten(0, (-1, 4)), ["sin"]),
    "past several, and a copy of the same value": (
        lambda x: (x.flatten(0, 1).sin() * 2 + 1).tanh().flatten().reshape(-1, 3),
        ["sin", "mul", "add", "tanh", "reshape"],
    ),
    "past a norm over dimensions that stay": (
        lambda x: F.layer_norm(x.flatten(0, 1), (6,), GAIN).unflatten(0, (-1, 4)),
        ["layer_norm"],
    ),
    "a permutation": (lambda x: x.permute(1, 2, 0).exp().permute(2, 0, 1), ["exp"]),
    "past a vector over dimensions that stay": (lambda x: (x.unsqueeze(1) + GAIN).squeeze(1), ["add"]),
}


@pytest.mark.parametrize(("forward", "expected"), MOVES.values(), ids=MOVES)
def test_views_move_to_where_they_vanish(forward: Forward, expected: list[str]) -> None:
    rewritten(MoveViews(), forward, expected)


LEFT: dict[str, Forward] = {
    "a norm over a dimension that changes": lambda x: F.layer_norm(x.flatten(1), (24,)).unflatten(1, (4, 6)),
    "a sum with a value of its own rows": lambda x: _with_its_reverse(x.flatten(0, 1)).unflatten(0, (-1, 4)),
    "a softmax": lambda x: x.transpose(1, 2).softmax(-1).transpose(1, 2),
    "an operator whose result another one reads": lambda x: x.flatten(1).sin().cumsum(1).unflatten(1, (4, 6)),
}


@pytest.mark.parametrize("forward", LEFT.values(), ids=LEFT)
def test_views_stay_before_what_they_matter_to(forward: Forward) -> None:
    graph = captured(forward, normal(3, 4, 6))
    moved, record = run(graph, MoveViews(), normal(3, 4, 6))
    assert text(moved) == text(graph)
    assert record.matches == ()


def test_views_that_would_leave_a_result_elsewhere_in_memory_stay_with_the_reason() -> None:
    graph = captured(lambda x: x.transpose(1, 2).contiguous().exp().transpose(1, 2), normal(3, 4, 6))
    moved, record = run(graph, MoveViews())
    assert text(moved) == text(graph)
    assert record.skipped == ()  # a copy is no view
    graph = captured(lambda x: x.transpose(1, 2).reshape(-1, 12, 2).exp().reshape(-1, 6, 4).mT, normal(3, 4, 6))
    moved, record = run(graph, MoveViews())
    assert operators(moved)[-1] != "exp"
    assert any("which would lie otherwise in memory" in skip.reason for skip in record.skipped)


def test_tokens_and_batch_stay_free() -> None:
    graph = captured(
        lambda x: (x.flatten(0, 1).sin() * 2).unflatten(0, (x.shape[0], -1)), normal(3, 4, 6), tokens_free=True
    )
    moved, _ = run(graph, MoveViews(), normal(3, 4, 6))
    assert operators(moved) == ["sin", "mul"]
    for batch, length in ((1, 4), (2, 7), (5, 1)):
        x = normal(batch, length, 6)
        assert torch.equal(moved(x), graph(x))
        assert wrong_metadata(moved, x) == []


SCHEDULES: dict[str, Levels] = {
    "pairs of blocks": [[[0, 1], [2, 3]], [[4, 5], [6, 7]]],
    "two branches of two blocks": [[[0, 1, 2, 3], [4, 5, 6, 7]]],
}


@pytest.mark.parametrize("levels", SCHEDULES.values(), ids=SCHEDULES)
def test_a_fused_network_needs_fewer_operators_and_keeps_stacks_and_numbers(levels: Levels) -> None:
    model, graph = vision()
    assert len(vision_steps(model)) == 8
    fused, _ = run_passes(graph, [ApplyPlan(plan_of(8, levels)), FuseWidth()], [images()])
    moved, record = run(fused, MoveViews(), images())
    assert len(operators(moved)) < len(operators(fused))
    assert record.matches
    stacks = [[str(term.result.meta["val"].shape) for term in stack.terms] for stack in find_stacks(fused).stacks]
    assert stacks == [
        [str(term.result.meta["val"].shape) for term in stack.terms] for stack in find_stacks(moved).stacks
    ]
    for batch in (1, 5):
        pixels = images(batch)
        assert relative_error(moved(pixels), vision_output(model, levels, pixels)) < 1e-10
        assert wrong_metadata(moved, pixels) == []
    refused, second = run(moved, FuseWidth())
    assert second.matches == ()
    assert text(refused) == text(moved)
    again, third = run(moved, MoveViews())
    assert third.matches == ()
    assert text(again) == text(moved)
