"""Adds that are left out: each is refused with the reason, or is no residual add at all."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.stacks.find import Refusal, Stacks
from tests.passes.models import TOKENS, WIDTH, Function, Mlp, Residual, normal, tokens, written_out_gelu
from tests.passes.stacks.found import named_linears, only_stack, stacks_of


def test_a_sum_that_is_read_between_two_adds_to_one_state_makes_them_no_term() -> None:
    def forward(self: Function, x: Tensor) -> tuple[Tensor, Tensor]:
        first = x + self.a(x)
        return first + torch.tanh(self.b(x)), torch.exp(first)

    found = stacks_of(Function(forward, **named_linears(2)))
    assert [len(stack.terms) for stack in found.stacks] == [1]
    skip = "linear (linear layer from 8 to 8), so no term leaves the state as it is"
    assert [refusal.node for refusal in found.refused] == ["add_1"]
    assert found.refused[0].reason == f"the skip path of add_1 is not the state inputs_0 but {skip}"


def test_a_projected_shortcut_is_refused_with_the_map_that_stands_for_the_state() -> None:
    found = stacks_of(Function(lambda self, x: self.a(x) + torch.tanh(self.b(x)), **named_linears(2)))
    reason = (
        "the skip path of add is not the state inputs_0 but linear (linear layer from 8 to 8),"
        " so no term leaves the state as it is"
    )
    assert found == Stacks((), (Refusal("add", reason),))


def test_a_convolution_on_the_skip_path_ends_the_stack_and_begins_another() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        x = F.relu(x + self.a(x))
        x = F.relu(x + self.b(x))
        x = F.relu(self.skip(x) + self.narrow(F.relu(self.c(x))))
        y: Tensor = F.relu(x + self.d(x))
        return y

    convolutions = {name: nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for name in "abc"}
    narrow = {name: nn.Conv2d(WIDTH, 4, 1, stride=2) for name in ("skip", "narrow")}
    model = Function(forward, **convolutions, **narrow, d=nn.Conv2d(4, 4, 3, padding=1))
    found = stacks_of(model, normal(2, WIDTH, 6, 6))
    reason = (
        "the skip path of add_2 is not the state relu_1 but conv2d_2 (1x1 convolution from 8x6x6 to 4x3x3),"
        " so the block changes the state and ends the stack"
    )
    assert found.refused == (Refusal("add_2", reason),)
    assert [len(stack.terms) for stack in found.stacks] == [2, 1]


def test_branches_on_one_state_are_parallel_already_and_told_once() -> None:
    model = Function(lambda self, x: sum(torch.tanh(getattr(self, n)(x)) for n in "abc") + 0.0, **named_linears(3))
    (refusal,) = stacks_of(model).refused
    assert refusal.reason.endswith("is a sum of 3 branches that all read inputs_0: they are parallel already")


def test_what_the_branches_add_to_one_state_is_told_once() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        branches = []
        for first, second in ((self.a, self.b), (self.c, self.d), (self.e, self.f)):
            y = x + torch.tanh(first(x))
            branches.append(y + torch.tanh(second(y)))
        return branches[0] + (branches[1] - x) + (branches[2] - x)

    found = stacks_of(Function(forward, **named_linears(6)))
    assert [len(stack.terms) for stack in found.stacks] == [2, 2, 2]
    (refusal,) = found.refused
    assert refusal.reason.endswith("they are parallel already")


def test_sums_of_embeddings_rotary_tables_and_masks_are_no_residual_adds() -> None:
    def forward(self: Function, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.words(ids) + self.places(ids.cumsum(1))
        bias = (1 - mask) * -1e9 + mask * 0.5
        y: Tensor = x + self.a(torch.tanh(x) + bias)
        return y

    embeddings = {name: nn.Embedding(100, WIDTH) for name in ("words", "places")}
    ids = torch.ones(3, TOKENS, dtype=torch.int64)
    assert len(only_stack(stacks_of(Function(forward, **embeddings, **named_linears(1)), ids, tokens())).terms) == 1


def test_an_activation_written_out_in_a_head_is_no_residual_add() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        x = x + self.a(x)
        y: Tensor = self.b(written_out_gelu(self.c(x)))
        return y

    assert len(only_stack(stacks_of(Function(forward, **named_linears(3)))).terms) == 1


def test_a_scaled_add_is_refused_with_its_scale() -> None:
    model = Function(lambda self, x: torch.add(x, self.a(x), alpha=2), **named_linears(1))
    reason = "add adds 2 times linear (alpha), not linear itself"
    assert stacks_of(model) == Stacks((), (Refusal("add", reason),))


def test_an_add_that_broadcasts_is_refused_with_what_it_broadcasts() -> None:
    model = Function(lambda self, x: x + self.a(x).mean(1, keepdim=True), **named_linears(1))
    assert stacks_of(model) == Stacks((), (Refusal("add", "add broadcasts mean over the state inputs_0"),))


def test_a_term_with_an_inner_value_that_is_read_elsewhere_is_refused_with_both_nodes() -> None:
    def forward(self: Function, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x + self.a(x)
        inner = torch.tanh(self.b(x))
        x = x + self.c(inner)
        return x + self.d(x), torch.exp(inner)

    found = stacks_of(Function(forward, **named_linears(4)))
    assert found.refused == (Refusal("add_1", "tanh inside the term is also read by exp outside it"),)
    assert [len(stack.terms) for stack in found.stacks] == [1, 1]


def test_a_term_that_reads_an_earlier_state_is_refused_with_that_state() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        first = x + self.a(x)
        second = first + self.b(first)
        third = second + self.c(second * first)
        y: Tensor = third + self.d(third)
        return y

    found = stacks_of(Function(forward, **named_linears(4)))
    assert found.refused == (Refusal("add_2", "mul also reads add, an earlier state of the stack"),)
    assert [len(stack.terms) for stack in found.stacks] == [2, 1]


def test_a_side_input_computed_from_the_state_of_the_stack_is_refused() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        gate = torch.sigmoid(x)
        x = x + self.a(x)
        y: Tensor = x + self.b(x * gate)
        return y

    found = stacks_of(Function(forward, **named_linears(2)))
    assert found.refused == (Refusal("add_1", "mul also reads sigmoid, an earlier state of the stack"),)


def test_a_term_whose_inner_value_is_an_output_by_name_is_refused() -> None:
    def forward(self: Function, x: Tensor) -> dict[str, Tensor]:
        inner = torch.tanh(self.a(x))
        return {"state": x + self.b(inner), "inner": inner}

    found = stacks_of(Function(forward, **named_linears(2)))
    assert found.refused == (Refusal("add", "tanh inside the term is also read by output outside it"),)


def test_a_term_around_a_longer_stack_is_refused() -> None:
    inner = nn.Sequential(nn.Linear(WIDTH, WIDTH), Residual([Mlp(), Mlp(), Mlp()]))
    found = stacks_of(Residual([inner]))
    assert found.refused == (Refusal("add_3", "the term holds a longer stack of its own"),)
    assert [stack.summary() for stack in found.stacks] == ["3 mlp"]


def test_the_other_terms_of_a_chain_with_a_refused_term_are_kept_or_refused() -> None:
    inner = nn.Sequential(nn.Linear(WIDTH, WIDTH), Residual([Mlp() for _ in range(6)]))
    found = stacks_of(Residual([nn.Linear(WIDTH, WIDTH), inner, nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)]))
    assert found.terms + len(found.refused) == 10


def test_a_term_without_parameters_that_no_term_follows_is_refused() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        x = x + self.a(x)
        y: Tensor = x + torch.tanh(x)
        return y

    assert stacks_of(Function(forward, **named_linears(1))).refused == (Refusal("add_1", "the term has no parameters"),)


def test_a_difference_of_branches_on_one_state_is_told() -> None:
    (refusal,) = stacks_of(
        Function(lambda self, x: torch.tanh(self.a(x)) - torch.tanh(self.b(x)), **named_linears(2))
    ).refused
    assert refusal.reason.endswith("is a sum of 2 branches that all read inputs_0: they are parallel already")
