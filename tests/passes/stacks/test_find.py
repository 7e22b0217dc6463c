"""Stacks: what counts as a residual term, what it reads beside the state, and where a stack begins and ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from passes.graph import operators as ops
from passes.stacks.find import Stacks, find_stacks
from tests.passes.models import (
    TOKENS,
    WIDTH,
    Attention,
    Function,
    GatedMlp,
    Mlp,
    Residual,
    normal,
    tokens,
    vision,
    written_out_gelu,
)
from tests.passes.stacks.found import named_linears, only_stack, stacks_of, targets_of


def test_a_vision_transformer_is_one_stack_of_attention_and_mlp() -> None:
    stack = only_stack(find_stacks(vision()[1]))
    assert [term.kind for term in stack.terms] == ["attention", "mlp"] * 4
    assert stack.summary() == "4 attention, 4 mlp"
    assert stack.name == "blocks"
    assert [term.module for term in stack.terms[:3]] == ["blocks.0", "blocks.0", "blocks.1"]


def test_the_state_goes_from_the_embedding_through_each_residual_add() -> None:
    _, graph = vision()
    stack = only_stack(find_stacks(graph))
    adds = [node for node in graph.graph.nodes if node.target == ops.ADD]
    assert [stack.entry, *(term.add for term in stack.terms)] == adds
    assert all(term.result is following.skip for term, following in zip(stack.terms, stack.terms[1:], strict=False))
    assert stack.exit is adds[-1]


@pytest.mark.parametrize(
    ("term", "kind"),
    [
        (Mlp, "mlp"),
        (GatedMlp, "mlp"),
        (lambda: nn.Linear(WIDTH, WIDTH), "other"),
        (lambda: Attention("separate"), "attention"),
    ],
)
def test_the_kind_of_a_term_is_what_it_computes(term: Callable[[], nn.Module], kind: str) -> None:
    assert [t.kind for t in only_stack(stacks_of(Residual([term(), term()]))).terms] == [kind, kind]


def test_attention_written_out_with_a_softmax_is_attention() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        y: Tensor = x + self.v(torch.softmax(self.q(x) @ x.transpose(1, 2), -1) @ x)
        return y

    stack = only_stack(stacks_of(Function(forward, q=nn.Linear(WIDTH, WIDTH), v=nn.Linear(WIDTH, WIDTH))))
    assert [term.kind for term in stack.terms] == ["attention"]


def test_two_adds_to_one_state_are_one_term() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for _ in range(2):
            x = (x + self.a(x)) + self.b(x) + self.c(torch.tanh(x))
        return x

    stack = only_stack(stacks_of(Function(forward, **named_linears(3))))
    first, second = stack.terms
    assert targets_of(first.joined) == [ops.LINEAR, ops.LINEAR]
    assert targets_of(first.post) == [ops.ADD, ops.ADD]
    assert first.norms == ()
    assert len(first.parameters) == 6
    assert first.result is second.skip
    assert first.signature == second.signature


def test_an_add_inside_a_written_out_activation_is_part_of_the_term() -> None:
    stack = only_stack(stacks_of(Residual([Mlp(activation=written_out_gelu) for _ in range(3)])))
    assert stack.summary() == "3 mlp"
    inner_adds = [node for node in stack.terms[0].inner if node.target in ops.ADDS]
    assert len(inner_adds) == 2


def test_a_residual_add_with_weights_inside_a_term_is_part_of_the_term() -> None:
    def term() -> nn.Module:
        return nn.Sequential(nn.Linear(WIDTH, WIDTH), Residual([nn.Linear(WIDTH, WIDTH)]), nn.Linear(WIDTH, WIDTH))

    stack = only_stack(stacks_of(Residual([term(), term()])))
    assert len(stack.terms) == 2
    assert all(len(term.parameters) == 6 for term in stack.terms)


def test_a_mask_is_a_side_input_of_the_terms_that_read_it() -> None:
    model = Residual([Attention("chunk"), Attention("chunk")])
    found = stacks_of(model, tokens(), torch.ones(TOKENS, TOKENS, dtype=torch.bool))
    stack = only_stack(found)
    assert [[side.op for side in term.sides] for term in stack.terms] == [["placeholder"], ["placeholder"]]
    assert stack.terms[0].sides == stack.terms[1].sides
    assert stack.terms[0].signature == stack.terms[1].signature


def test_sizes_are_no_side_inputs() -> None:
    assert all(term.sides == () for term in only_stack(find_stacks(vision()[1])).terms)


def test_the_skip_may_be_the_right_operand_of_the_add() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        x = self.a(x) + x
        y: Tensor = self.b(x) + x
        return y

    assert len(only_stack(stacks_of(Function(forward, **named_linears(2)))).terms) == 2


def test_a_model_may_have_several_stacks_in_the_order_of_execution() -> None:
    encoder, decoder = Residual([Mlp(), Mlp(), Mlp()]), Residual([Attention("chunk"), Mlp()])
    found = stacks_of(nn.Sequential(encoder, nn.Linear(WIDTH, WIDTH), decoder))
    assert [stack.summary() for stack in found.stacks] == ["3 mlp", "1 attention, 1 mlp"]
    assert [stack.name for stack in found.stacks] == ["0.terms", "2.terms"]
    assert found.terms == 5
    assert found.refused == ()


def test_the_last_state_of_one_stack_may_be_a_side_input_of_another() -> None:
    def forward(self: Function, x: Tensor, y: Tensor) -> Tensor:
        x = x + self.a(x)
        x = x + self.b(x)
        y = y + self.c(y * x)
        z: Tensor = y + self.d(y * x)
        return z

    found = stacks_of(Function(forward, **named_linears(4)), tokens(), tokens(seed=2))
    assert [len(stack.terms) for stack in found.stacks] == [2, 2]
    assert found.refused == ()
    encoder, decoder = found.stacks
    assert [term.sides for term in decoder.terms] == [(encoder.exit,), (encoder.exit,)]


def test_terms_without_a_common_module_are_named_by_number() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        x = x + self.a(x)
        y: Tensor = x + self.b(x)
        return y

    assert only_stack(stacks_of(Function(forward, **named_linears(2)))).name == "stack0"


def test_a_model_without_residual_adds_has_no_stacks() -> None:
    found = stacks_of(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)))
    assert found == Stacks(())
    assert found.terms == 0


def test_a_term_without_parameters_is_a_term_where_another_reads_its_result() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        x = x + self.a(x)
        x = x + x.roll(1, 1)
        y: Tensor = x + self.b(x)
        return y

    stack = only_stack(stacks_of(Function(forward, **named_linears(2))))
    assert [bool(term.parameters) for term in stack.terms] == [True, False, True]


def test_a_term_without_parameters_and_one_with_them_on_one_state_are_one_term() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for name in "ab":
            x = x + x.roll(1, 1) + getattr(self, name)(x)
        return x

    stack = only_stack(stacks_of(Function(forward, **named_linears(2))))
    assert [len(term.joined) for term in stack.terms] == [1, 1]


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda table, x: table.type_as(x), id="type_as"),
        pytest.param(lambda table, x: table + torch.zeros_like(x), id="zeros_like"),
        pytest.param(lambda table, x: table.expand_as(x), id="expand_as"),
        pytest.param(lambda table, x: table + x.new_ones(x.shape), id="new_ones"),
        pytest.param(lambda table, x: table + torch.full_like(x, 0.5), id="full_like"),
        pytest.param(lambda table, x: table.to(x), id="to another tensor"),
        pytest.param(lambda table, x: (table + 0 * torch.ones_like(x)).reshape_as(x), id="reshape_as"),
    ],
)
def test_reading_the_dtype_or_shape_of_a_state_is_no_data_flow(read: Callable[[Tensor, Tensor], Tensor]) -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        first = x + self.a(x)
        table = read(self.table, x)
        second = first + self.b(first * table)
        y: Tensor = second + self.c(second * read(self.table, first))
        return y

    stack = only_stack(stacks_of(Function(forward, **named_linears(3), table=normal(1, TOKENS, WIDTH))))
    assert len(stack.terms) == 3


def test_a_step_towards_what_a_term_computes_is_a_term_to_the_last() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for name in "abc":
            x = x + 0.3 * (getattr(self, name)(x) - x)
        return x

    assert len(only_stack(stacks_of(Function(forward, **named_linears(3)))).terms) == 3
