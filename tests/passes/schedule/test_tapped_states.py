"""States that are read outside of their stack: what they are after a rewrite, and levels fuse all the same."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, fx, nn

from passes.fusion.fuse_width import FuseWidth
from passes.graph.measures import operator_counts
from passes.plan import Level, Plan, StackPlan
from passes.runner import PassRecord
from passes.schedule.apply_plan import rewrite
from tests.passes.models import (
    WIDTH,
    Function,
    Levels,
    Mlp,
    graph_of,
    plan_of,
    randomised,
    relative_error,
    run,
    text,
    tokens,
    wide_operators,
    wrong_metadata,
)
from tests.sampled import sampled

EXACT = 1e-10


class Tapped(nn.Module):
    """Residual MLP terms; the states after some of them are returned too."""

    def __init__(self, terms: int, taps: Sequence[int], post: Callable[[], nn.Module] = nn.Identity) -> None:
        super().__init__()
        self.terms = nn.ModuleList(Mlp() for _ in range(terms))
        self.posts = nn.ModuleList(post() for _ in range(terms))
        self.taps = taps

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        states = []
        for term, post in zip(self.terms, self.posts, strict=True):
            x = post(x + term(x))
            states.append(x)
        return (x, *(states[number] for number in self.taps))

    def added(self, x: Tensor, *numbers: int) -> Tensor:
        """x and what some terms add to it."""
        return x + sum(self.terms[number](x) for number in numbers)  # type: ignore[return-value]


def _outputs(module: nn.Module, x: Tensor) -> Sequence[Tensor]:
    with torch.no_grad():
        outputs: Sequence[Tensor] = module(x)
    return outputs


def _rewritten(model: Tapped, levels: Levels) -> fx.GraphModule:
    return rewrite(graph_of(model, tokens()), plan_of(len(model.terms), levels))[0]


def _same(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    return all(relative_error(a, b) < EXACT for a, b in zip(actual, expected, strict=True))


def _fused(module: fx.GraphModule) -> tuple[fx.GraphModule, PassRecord]:
    """The fused graph, whose numbers, shapes and second run are right."""
    fused, record = run(module, FuseWidth(), tokens())
    assert record.skipped == ()
    for batch in (1, 4):
        assert _same(_outputs(fused, tokens(batch)), _outputs(module, tokens(batch)))
        assert wrong_metadata(fused, tokens(batch)) == []
    again, second = run(fused, FuseWidth())
    assert second.matches == ()
    assert text(again) == text(fused)
    return fused, record


@functools.cache
def _model(terms: int, *taps: int) -> Tapped:
    model = randomised(Tapped(terms, taps))
    assert isinstance(model, Tapped)
    return model


def test_a_serial_schedule_leaves_tapped_states_to_the_bit() -> None:
    model = _model(3, 0, 1)
    graph = graph_of(model, tokens())
    assert text(_rewritten(model, [[[0]], [[1]], [[2]]])) == text(graph)


def test_a_tapped_state_is_what_is_nearest_to_it_after_the_rewrite() -> None:
    model, x = _model(4, 0, 1, 2), tokens()
    last, first, second, third = _outputs(_rewritten(model, [[[0], [1]], [[2], [3]]]), x)
    with torch.no_grad():
        state = model.added(x, 0, 1)
        assert _same([first, second], [model.added(x, 0), state])
        assert _same([third, last], [model.added(state, 2), model.added(state, 2, 3)])


def test_a_tapped_state_of_terms_on_several_levels_has_what_each_of_them_adds() -> None:
    model, x = _model(4, 1), tokens()
    last, tapped = _outputs(_rewritten(model, [[[0], [2]], [[1], [3]]]), x)
    with torch.no_grad():
        state = model.added(x, 0, 2)
        assert _same([tapped, last], [model.added(x, 0) + model.terms[1](state), model.added(state, 1, 3)])


def test_a_tapped_state_in_a_level_with_one_norm_is_the_state_after_the_level() -> None:
    model = randomised(Tapped(2, (0,), functools.partial(nn.LayerNorm, WIDTH)))
    plan = Plan((StackPlan(2, (Level(((0,), (1,)), shared=True),)),))
    last, tapped = _outputs(rewrite(graph_of(model, tokens()), plan)[0], tokens())
    assert torch.equal(last, tapped)


LEVELS: dict[str, tuple[tuple[int, ...], Levels, int]] = {
    "all states, pairs": ((0, 1, 2), [[[0], [1]], [[2], [3]]], 2),
    "one in the middle of a level of three": ((1,), [[[0], [1], [2]], [[3]]], 1),
    "all states, one level": ((0, 1, 2), [[[0], [1], [2], [3]]], 1),
    "sublayer form": ((1,), [[[0], [2]], [[1], [3]]], 2),
    "block form": ((0, 1, 2), [[[0, 1], [2, 3]]], 1),
}


@pytest.mark.parametrize(("taps", "levels", "matches"), sampled(LEVELS, 2))
def test_levels_with_tapped_states_are_fused(taps: tuple[int, ...], levels: Levels, matches: int) -> None:
    fused, record = _fused(_rewritten(_model(4, *taps), levels))
    assert len(record.matches) == matches
    assert set(record.changed) == set(record.present)
    untapped, _ = run(_rewritten(_model(4), levels), FuseWidth())
    for kind in ("norm", "attention"):
        assert wide_operators(fused)[kind] == wide_operators(untapped)[kind]


def test_a_tap_at_the_end_of_a_level_costs_nothing() -> None:
    fused, _ = _fused(_rewritten(_model(4, 1), [[[0], [1]], [[2], [3]]]))
    untapped, _ = _fused(_rewritten(_model(4), [[[0], [1]], [[2], [3]]]))
    assert operator_counts(fused) == operator_counts(untapped)


def test_a_head_that_reads_a_state_in_the_middle_is_no_obstacle() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        first = x + self.a(x)
        second = first + self.b(first)
        third = second + self.c(second)
        return torch.cat([self.head(torch.tanh(first)), third], -1)

    parts = {name: Mlp() for name in "abc"}
    graph = graph_of(randomised(Function(forward, **parts, head=nn.Linear(WIDTH, 3))), tokens())
    module, _ = rewrite(graph, plan_of(3, [[[0], [1], [2]]]))
    fused, record = run(module, FuseWidth(), tokens())
    assert record.skipped == ()
    assert [line for line in record.matches if "3 x" in line] != []
    assert relative_error(fused(tokens()), module(tokens())) < EXACT


@pytest.mark.parametrize("terms", [2, 3])
def test_branches_whose_own_states_are_returned_are_fused_and_no_term_with_one_that_reads_it(terms: int) -> None:
    def forward(self: Function, x: Tensor) -> tuple[Tensor, ...]:
        total, states = x, []
        for chain in (self.a, self.b, self.c):
            state = x
            for term in chain:  # type: ignore[union-attr]
                state = state + term(state)
                states.append(state)
            total = total + (state - x)
        return total, *states

    chains = {name: nn.ModuleList(Mlp() for _ in range(terms)) for name in "abc"}
    fused, record = _fused(graph_of(randomised(Function(forward, **chains)), tokens()))
    assert len(record.matches) == 1
    assert wide_operators(fused)["norm"] == terms


def test_hidden_values_of_branches_that_are_returned_stay_and_the_rest_is_fused() -> None:
    def forward(self: Function, x: Tensor) -> tuple[Tensor, ...]:
        hidden = [torch.relu(up(x)) for up in (self.a, self.b)]
        return x + self.c(hidden[0]) + self.d(hidden[1]), *hidden

    graph = graph_of(randomised(Function(forward, **{name: nn.Linear(WIDTH, WIDTH) for name in "abcd"})), tokens())
    fused, record = run(graph, FuseWidth(), tokens())
    assert set(record.changed) | {skip.node for skip in record.skipped} == set(record.present)
    assert _same(_outputs(fused, tokens()), _outputs(graph, tokens()))
