"""A state that is reshaped between blocks keeps one shape."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from parallelize.models.capture import capture
from parallelize.models.clean import clean
from passes.clean.keep_state_shape import KeepStateShape
from passes.graph import operators as ops
from passes.runner import PassRecord, Skip
from passes.stacks.find import find_stacks
from tests.passes.models import (
    HIDDEN,
    WIDTH,
    Attention,
    Function,
    Mlp,
    graph_of,
    randomised,
    run,
    tokens,
    wrong_metadata,
)


def _kept(model: nn.Module, *inputs: Tensor) -> tuple[fx.GraphModule, PassRecord]:
    inputs = inputs or (tokens(),)
    return run(graph_of(model, *inputs), KeepStateShape(), *inputs)


def _flat_mlp(self: Function, x: Tensor, *, left: bool = True) -> Tensor:
    """The MLP on (batch * tokens, width), as OPT runs it."""
    flat = x.reshape(-1, WIDTH)
    term = self.m(flat)
    return (flat + term if left else term + flat).view(x.shape)


def _model(**options: bool) -> nn.Module:
    def forward(self: Function, x: Tensor) -> Tensor:
        for _ in range(2):
            x = _flat_mlp(self, x + self.a(x), **options)
        return x

    return randomised(Function(forward, a=Attention("chunk"), m=Mlp(hidden=HIDDEN)))


def test_a_flattened_state_is_one_stack_with_the_same_bits_on_either_side_of_the_add() -> None:
    for left in (True, False):
        model = _model(left=left)
        graph, record = _kept(model)
        assert len(record.matches) == 2
        assert record.skipped == ()
        (stack,) = find_stacks(graph).stacks
        assert [term.kind for term in stack.terms] == ["attention", "mlp"] * 2
        for batch in (1, 4):
            assert torch.equal(graph(tokens(batch)), model(tokens(batch)))


def test_the_shape_of_the_moved_reshape_is_known() -> None:
    graph, _ = _kept(_model())
    (stack,) = find_stacks(graph).stacks
    moved = [term.output for term in stack.terms if term.kind == "mlp"]
    assert all(node.target in ops.VIEWS for node in moved)
    assert [str(node.meta["val"].shape) for node in moved] == [str(stack.entry.meta["val"].shape)] * 2
    assert wrong_metadata(graph, tokens(3)) == []


def test_a_second_run_finds_nothing() -> None:
    graph, _ = _kept(_model())
    assert run(graph, KeepStateShape())[1].matches == ()


def test_an_add_that_is_read_in_both_shapes_is_left_with_a_reason() -> None:
    def forward(self: Function, x: Tensor) -> tuple[Tensor, Tensor]:
        flat = x.reshape(-1, WIDTH)
        flat = flat + self.m(flat)
        return flat.view(x.shape), flat.exp()

    model = randomised(Function(forward, m=Mlp()))
    graph, record = _kept(model)
    assert record.matches == ()
    assert record.skipped == (Skip("add", "add is read in the shape of inputs_0 and in its own"),)
    (stack,) = find_stacks(graph).stacks
    assert stack.entry.target in ops.VIEWS
    for actual, expected in zip(graph(tokens()), model(tokens()), strict=True):
        assert torch.equal(actual, expected)


def test_a_view_to_another_shape_is_left_alone() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        flat = x.reshape(-1, WIDTH)
        return (flat + self.m(flat)).view(x.shape[0], -1)

    model = randomised(Function(forward, m=Mlp()))
    graph, record = _kept(model)
    assert (record.matches, record.skipped) == ((), ())
    assert torch.equal(graph(tokens()), model(tokens()))
    assert find_stacks(graph).stacks[0].entry.target in ops.VIEWS


@pytest.mark.parametrize(
    "combine",
    [
        pytest.param(
            lambda x, f: (x.reshape(-1, WIDTH) - f.reshape(-1, WIDTH)).view(x.shape), id="reshaped, subtracted"
        ),
        pytest.param(lambda x, f: (x.transpose(1, 2) + f.transpose(1, 2)).transpose(2, 1), id="transposed"),
        pytest.param(
            lambda x, f: (x.transpose(1, 2) - f.transpose(1, 2)).transpose(-1, -2), id="transposed, subtracted"
        ),
        pytest.param(lambda x, f: (x.flatten(0, 1) + f.flatten(0, 1)).view_as(x), id="flattened"),
        pytest.param(lambda x, f: (x.flatten(1) - f.flatten(1)).unflatten(1, x.shape[1:]), id="flattened, unflattened"),
        pytest.param(lambda x, f: (x.permute(2, 0, 1) + f.permute(2, 0, 1)).permute(1, 2, 0), id="permuted"),
    ],
)
def test_a_sum_between_a_change_of_shape_and_its_undoing_is_on_the_state(
    combine: Callable[[Tensor, Tensor], Tensor],
) -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for name in "ab":
            x = combine(x, getattr(self, name)(x))
        return x

    model = randomised(Function(forward, a=Mlp(), b=Mlp()))
    program = capture(model, (tokens(),))
    assert torch.equal(program.module(tokens(2)), model(tokens(2)))
    (stack,) = find_stacks(clean(program)[0].module).stacks
    assert len(stack.terms) == 2


def test_another_order_of_the_axes_undoes_nothing() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        return (x.permute(2, 0, 1) + self.m(x).permute(2, 0, 1)).permute(2, 0, 1)

    assert _kept(randomised(Function(forward, m=Mlp())))[1].matches == ()


def test_a_term_that_is_transposed_back_to_the_state_is_not_taken_for_the_state() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for term in (self.a, self.b):
            x = x + term(x.transpose(1, 2)).transpose(1, 2)
        return self.head(x.transpose(1, 2))

    parts = {name: nn.Linear(WIDTH, WIDTH) for name in ("a", "b", "head")}
    graph, _ = _kept(randomised(Function(forward, **parts)), tokens().transpose(1, 2))
    found = find_stacks(graph)
    assert [len(stack.terms) for stack in found.stacks] == [2]
    assert found.refused == ()
