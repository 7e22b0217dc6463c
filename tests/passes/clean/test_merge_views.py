"""Runs of views and permutations become the fewest that do the same, with the same bits in the same places."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from passes.clean.merge_views import MergeViews
from tests.passes.models import normal, run, text, wrong_metadata
from tests.passes.views import Forward, captured, operators, rewritten

aten = torch.ops.aten


RUNS: dict[str, tuple[Forward, list[str]]] = {
    "a permutation and its inverse": (lambda x: x.permute(1, 2, 0).permute(2, 0, 1).exp(), ["exp"]),
    "two permutations": (lambda x: x.permute(1, 2, 0).permute(1, 2, 0).exp(), ["permute", "exp"]),
    "a transposition and its inverse": (lambda x: x.transpose(1, 2).transpose(-1, -2).exp(), ["exp"]),
    "views in a row": (lambda x: x.flatten(1).unflatten(1, (2, 12)).unsqueeze(1).exp(), ["reshape", "exp"]),
    "views that end where they began": (lambda x: x.flatten(0, 1).unflatten(0, (-1, 4)).exp(), ["exp"]),
    "a dimension that comes and goes": (lambda x: x.unsqueeze(1).squeeze(1).exp(), ["exp"]),
    "a view between permutations that undo each other": (
        lambda x: x.transpose(1, 2).unflatten(1, (2, 3)).permute(0, 3, 1, 2).exp(),
        ["reshape", "exp"],
    ),
    "parts that are cut and permuted twice": (
        lambda x: (
            x.unflatten(2, (2, 3)).permute(2, 0, 1, 3).unflatten(2, (2, 2)).permute(0, 2, 1, 3, 4).flatten(0, 1).exp()
        ),
        ["reshape", "permute", "reshape", "exp"],
    ),
    "a copy on the way": (
        lambda x: x.transpose(1, 2).unsqueeze(1).contiguous().squeeze(1).reshape(-1, 24).exp(),
        ["transpose", "reshape", "exp"],
    ),
}


@pytest.mark.parametrize(("forward", "expected"), RUNS.values(), ids=RUNS)
def test_a_run_becomes_the_fewest_operators_with_the_same_bits(forward: Forward, expected: list[str]) -> None:
    graph, merged = rewritten(MergeViews(), forward, expected)
    for batch in (1, 2, 5):
        x = normal(batch, 4, 6)
        assert merged(x).stride() == graph(x).stride()


LEFT: dict[str, Forward] = {
    "heads split and moved": lambda x: x.unflatten(2, (2, 3)).permute(0, 2, 1, 3).exp(),
    "patches in a row": lambda x: x.flatten(1).unsqueeze(2).transpose(1, 2).exp(),
    "a view that cuts across what was moved": lambda x: x.transpose(1, 2).reshape(-1, 8, 3).transpose(1, 2).exp(),
}


@pytest.mark.parametrize("forward", LEFT.values(), ids=LEFT)
def test_what_needs_its_operators_stays_as_it_is(forward: Forward) -> None:
    graph = captured(forward, normal(3, 4, 6))
    merged, record = run(graph, MergeViews())
    if record.matches:  # fewer operators that end in the same place are no harm
        assert len(operators(merged)) < len(operators(graph))
    else:
        assert text(merged) == text(graph)


def test_a_result_that_would_lie_otherwise_in_memory_is_left_with_the_reason() -> None:
    graph = captured(lambda x: x.transpose(1, 2).contiguous().transpose(1, 2).exp(), normal(3, 4, 6))
    merged, record = run(graph, MergeViews())
    assert text(merged) == text(graph)
    (skip,) = record.skipped
    assert skip.node == "transpose_1"
    assert "transpose, contiguous, transpose_1 could be nothing, which would lie otherwise in memory" in skip.reason


def test_a_value_on_the_way_that_something_else_reads_stays() -> None:
    def forward(x: Tensor) -> Tensor:
        heads = x.unflatten(2, (2, 3))
        return heads.exp().flatten(2) + heads.flatten(2)

    graph = captured(forward, normal(3, 4, 6))
    merged, _ = run(graph, MergeViews(), normal(3, 4, 6))
    assert operators(merged) == ["unflatten", "exp", "flatten", "add"]


def test_equal_views_of_one_value_are_one() -> None:
    graph = captured(lambda x: x.flatten(1).exp() + x.reshape(-1, 24).sin(), normal(3, 4, 6))
    merged, _ = run(graph, MergeViews(), normal(3, 4, 6))
    assert operators(merged) == ["flatten", "exp", "sin", "add"]


def test_two_free_sizes_stay_free() -> None:
    def forward(x: Tensor) -> Tensor:
        split = x.unflatten(2, (2, 3)).flatten(0, 1).transpose(0, 1)
        return split.unflatten(1, (x.shape[0], -1)).flatten(2, 3).exp()

    graph = captured(forward, normal(3, 4, 6), tokens_free=True)
    merged, record = run(graph, MergeViews(), normal(3, 4, 6))
    assert record.matches
    for batch, length in ((1, 4), (2, 7), (5, 1)):
        x = normal(batch, length, 6)
        assert torch.equal(merged(x), graph(x))
        assert wrong_metadata(merged, x) == []
