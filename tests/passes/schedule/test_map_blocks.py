"""Ranges of blocks replaced by linear maps: h = A x + b, and what stands behind reads the map."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from passes.errors import ParallelizeError
from passes.graph.operators import aten
from passes.runner import PassRecord
from passes.schedule.map_blocks import LinearMap, MapBlocks, MappedRange
from tests.passes.models import WIDTH, Mlp, Residual, fixed_graph_of, randomised, run, targets, tokens, wrong_metadata

SAMPLES = tokens()


def _model(count: int = 4) -> Residual:
    return randomised(Residual([Mlp() for _ in range(count)]))


def _map(first: int, last: int, stack: int = 0, axis: int = -1) -> MappedRange:
    torch.manual_seed(first)
    width = SAMPLES.shape[axis]
    weight, bias = torch.randn(width, width, dtype=torch.float64), torch.randn(width, dtype=torch.float64)
    return MappedRange(stack, first, last, LinearMap(weight, bias, axis))


def _mapped(model: Residual, *maps: MappedRange) -> tuple[fx.GraphModule, PassRecord]:
    return run(fixed_graph_of(model, SAMPLES), MapBlocks(maps))


@pytest.mark.parametrize("axis", [-1, 1])
def test_a_range_of_blocks_is_the_map_of_the_state_before_it(axis: int) -> None:
    model, found = _model(), _map(1, 2, axis=axis)
    graph, record = _mapped(model, found)
    with torch.no_grad():
        x = SAMPLES + model.terms[0](SAMPLES)
        x = found.map(x)
        x = x + model.terms[3](x)
    torch.testing.assert_close(graph(SAMPLES), x, rtol=1e-12, atol=1e-12)
    assert [match.split(": ")[1] for match in record.matches] == ["blocks 1 to 2"]
    assert wrong_metadata(graph, tokens()) == []
    assert targets(graph).count(aten.linear.default) == 5  # two terms that stay and the map


def test_a_range_that_begins_where_another_ends_maps_what_that_one_returns() -> None:
    model, first, second = _model(), _map(0, 1), _map(2, 3)
    for maps in ((first, second), (second, first)):
        graph, _ = _mapped(model, *maps)
        torch.testing.assert_close(graph(SAMPLES), second.map(first.map(SAMPLES)), rtol=1e-12, atol=1e-12)


def test_without_a_range_nothing_changes() -> None:
    model = _model(2)
    graph, record = _mapped(model)
    assert record.matches == ()
    assert torch.equal(graph(SAMPLES), model(SAMPLES))


@pytest.mark.parametrize(
    ("maps", "sentence"),
    [
        pytest.param([_map(0, 0, stack=1)], "Stack 1 of the model has no blocks 0 to 0", id="no such stack"),
        pytest.param([_map(1, 4)], "Stack 0 of the model has no blocks 1 to 4", id="no such block"),
        pytest.param([_map(2, 1)], "Stack 0 of the model has no blocks 2 to 1", id="empty"),
        pytest.param([_map(0, 1), _map(1, 2)], "Block 1 of stack 0 is in two ranges", id="overlapping"),
    ],
)
def test_ranges_that_the_model_does_not_have_are_refused(maps: list[MappedRange], sentence: str) -> None:
    with pytest.raises(ParallelizeError, match=sentence):
        _mapped(_model(), *maps)


def test_the_map_has_as_many_channels_as_the_state() -> None:
    graph, _ = _mapped(_model(), _map(0, 3))
    shapes = {name: tuple(value.shape) for name, value in graph.state_dict().items()}
    assert sorted(shapes.values()) == [(WIDTH,), (WIDTH, WIDTH)]
