"""However branches are added up, their sum keeps its numbers and nothing is left in silence."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from passes.fusion.fuse_width import FuseWidth
from tests.passes.models import graph_of, randomised, relative_error, run, text, tokens, wrong_metadata
from tests.properties.random_sums import RandomSum, SumSpec, sums


def _check_sums(number: int, count: int) -> None:
    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(sums())
    def checked(spec: SumSpec) -> None:
        _check_sum(spec)

    checked()


def _check_sum(spec: SumSpec) -> None:
    graph = graph_of(randomised(RandomSum(spec)), tokens())
    fused, record = run(graph, FuseWidth(), tokens())
    assert {*record.changed, *(skip.node for skip in record.skipped)} == set(record.present)
    for batch in (1, 4):
        with torch.no_grad():
            pairs = zip(fused(tokens(batch)), graph(tokens(batch)), strict=True)
        assert max(relative_error(actual, expected) for actual, expected in pairs) < 1e-10
        assert wrong_metadata(fused, tokens(batch)) == []
    again, second = run(fused, FuseWidth())
    assert second.matches == ()
    assert text(again) == text(fused)


def test_random_sums_of_branches_are_fused_without_a_change_of_the_numbers() -> None:
    _check_sums(7, 2)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(8, 12))
def test_a_hundred_random_sums_of_branches_are_fused_without_a_change_of_the_numbers(number: int) -> None:
    _check_sums(number, 25)
