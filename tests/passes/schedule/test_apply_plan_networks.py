"""Schedules of other networks: convolutions, side inputs, several stacks, sums of several terms, adds in place."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from passes.fusion.fuse_width import FuseWidth
from passes.graph.editing import clone
from passes.graph.measures import critical_gemms
from passes.plan import Level, Plan, StackPlan
from passes.schedule.apply_plan import ApplyPlan, rewrite
from passes.stacks.find import find_stacks
from tests.passes.eager import after_levels
from tests.passes.models import (
    WIDTH,
    Attention,
    Convolution,
    Function,
    Levels,
    Mlp,
    Residual,
    Step,
    fixed_graph_of,
    normal,
    plan_of,
    randomised,
    relative_error,
    run,
    scheduled,
    stack_plan,
    tokens,
)


def test_a_convolutional_network_counts_the_activation_after_the_add_as_part_of_the_term() -> None:
    model = Residual([Convolution() for _ in range(3)], [nn.ReLU() for _ in range(3)])
    pixels = normal(2, WIDTH, 6, 6)
    graph = fixed_graph_of(randomised(model), pixels)
    schedules: list[Levels] = [[[[0], [1], [2]]], [[[0, 1], [2]]], [[[0]], [[1], [2]]], [[[0], [2]]]]
    for levels in schedules:
        expected = after_levels(model.steps(), levels, pixels)
        assert relative_error(scheduled(graph, 3, levels)(pixels), expected) < 1e-12


def test_terms_keep_their_side_inputs() -> None:
    model = Residual([Attention("chunk") for _ in range(4)])
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    graph = fixed_graph_of(randomised(model), tokens(), mask)
    levels = [[[0], [1]], [[2, 3]]]
    with torch.no_grad():
        expected = after_levels(model.steps(mask), levels, tokens())
        without_mask = after_levels(model.steps(), levels, tokens())
    assert relative_error(scheduled(graph, 4, levels)(tokens(), mask), expected) < 1e-12
    assert relative_error(without_mask, expected) > 1e-3


def test_terms_that_read_the_shape_of_a_state_alone_run_side_by_side_and_fuse() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        for name in "ab":
            linear = getattr(self, name)
            x = x + torch.cat([torch.zeros_like(x), linear(x)], 1)[:, x.shape[1] :]
        return x

    model = Function(forward, a=nn.Linear(WIDTH, WIDTH), b=nn.Linear(WIDTH, WIDTH))
    module = fixed_graph_of(randomised(model), tokens())
    (stack,) = find_stacks(module).stacks
    assert len(stack.terms) == 2
    paired, _ = rewrite(module, Plan((StackPlan(2, (Level(((0,), (1,))),)),)))
    assert critical_gemms(paired) == 1
    record = FuseWidth(dry=True).apply(clone(paired))
    assert len(record.present) == 2


def test_each_stack_of_a_model_gets_its_own_schedule() -> None:
    first, between, second = Residual([Mlp(), Mlp()]), nn.Linear(WIDTH, WIDTH), Residual([Mlp(), Mlp(), Mlp()])
    graph = fixed_graph_of(randomised(nn.Sequential(first, between, second)), tokens())
    schedules: list[Levels] = [[[[0], [1]]], [[[0], [1]], [[2]]]]
    plan = Plan(tuple(plan_of(terms, levels).stacks[0] for terms, levels in zip((2, 3), schedules, strict=True)))
    rewritten, record = run(graph, ApplyPlan(plan))
    with torch.no_grad():
        middle = between(after_levels(first.steps(), schedules[0], tokens()))
        expected = after_levels(second.steps(), schedules[1], middle)
    assert relative_error(rewritten(tokens()), expected) < 1e-12
    assert record.matches == ("0.terms: 2 terms on 1 levels", "2.terms: 3 terms on 2 levels")


@pytest.mark.parametrize("levels", [[[[0], [1]]], [[[0, 1], [2]]], [[[0]], [[1], [2]]], [[[0]], [[2]]]])
@pytest.mark.parametrize("post", [nn.Identity, nn.ReLU])
def test_two_adds_to_one_state_are_scheduled_as_one_term(levels: Levels, post: type[nn.Module]) -> None:
    linears = [(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)) for _ in range(3)]

    def steps() -> list[Step]:
        def step(pair: tuple[nn.Linear, nn.Linear], x: Tensor) -> Tensor:
            y: Tensor = post()((x + pair[0](x)) + torch.tanh(pair[1](x)))
            return y

        return [functools.partial(step, pair) for pair in linears]

    def forward(self: Function, x: Tensor) -> Tensor:
        for step in steps():
            x = step(x)
        return x

    parts = {f"{name}{number}": pair[i] for number, pair in enumerate(linears) for i, name in enumerate("ab")}
    graph = fixed_graph_of(randomised(Function(forward, **parts)), tokens())
    with torch.no_grad():
        expected = after_levels(steps(), levels, tokens())
    assert relative_error(scheduled(graph, 3, levels)(tokens()), expected) < 1e-12


@pytest.mark.parametrize("first", [[[[0], [1]]], [[[0]], [[1]]], [[[1]]], []])
def test_a_stack_that_begins_where_another_ends_is_scheduled_on_its_new_state(first: Levels) -> None:
    blocks = [term for _ in range(2) for term in (Attention("chunk"), Mlp())]
    model = Residual([nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), *blocks])
    graph = fixed_graph_of(randomised(model), tokens())
    assert [len(stack.terms) for stack in find_stacks(graph).stacks] == [2, 4]
    second: Levels = [[[0], [2]], [[1], [3]]]
    rewritten, _ = run(graph, ApplyPlan(Plan((stack_plan(2, first), stack_plan(4, second)))))
    with torch.no_grad():
        middle = after_levels(model.steps()[:2], first, tokens())
        expected = after_levels(model.steps()[2:], second, middle)
    assert relative_error(rewritten(tokens()), expected) < 1e-12


def test_all_outputs_of_a_model_read_the_rewritten_state() -> None:
    stack = Residual([Mlp(), Mlp()])

    def forward(self: Function, x: Tensor) -> tuple[Tensor, Tensor]:
        state = self.stack(x)
        return self.head(state), torch.tanh(state)

    model = Function(forward, stack=stack, head=nn.Linear(WIDTH, 3))
    graph = fixed_graph_of(randomised(model), tokens())
    rewritten = scheduled(graph, 2, [[[0], [1]]])
    with torch.no_grad():
        state = after_levels(stack.steps(), [[[0], [1]]], tokens())
        expected = (model.head(state), torch.tanh(state))
    for actual, wanted in zip(rewritten(tokens()), expected, strict=True):
        assert relative_error(actual, wanted) < 1e-12


def _added_in_place(self: Function, x: Tensor) -> Tensor:
    x = self.stem(x)
    for term in self.terms:
        x += term(x)
    return x


def _adds_in_place() -> tuple[Function, Callable[[Levels], Tensor]]:
    terms = nn.ModuleList(Mlp() for _ in range(4))
    model = Function(_added_in_place, stem=nn.Linear(WIDTH, WIDTH), terms=terms)
    randomised(model)

    def expected(levels: Levels) -> Tensor:
        with torch.no_grad():
            return after_levels(Residual(list(terms)).steps(), levels, model.stem(tokens()))

    return model, expected


def test_a_state_that_is_added_to_in_place_can_be_scheduled_in_sublayer_form() -> None:
    model, expected = _adds_in_place()
    levels = [[[0], [1]], [[2], [3]]]
    assert relative_error(scheduled(fixed_graph_of(model, tokens()), 4, levels)(tokens()), expected(levels)) < 1e-12


def test_a_state_that_is_added_to_in_place_can_be_scheduled_in_block_form() -> None:
    model, expected = _adds_in_place()
    levels = [[[0, 1], [2, 3]]]
    assert relative_error(scheduled(fixed_graph_of(model, tokens()), 4, levels)(tokens()), expected(levels)) < 1e-12
