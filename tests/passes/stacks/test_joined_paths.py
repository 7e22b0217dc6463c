"""Sums of two paths that part at one state, neither of which is the state: each is told once, with what it joins."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.stacks.find import Refusal, Stacks
from tests.passes.models import TOKENS, WIDTH, Function, normal, tokens
from tests.passes.stacks.found import named_linears, only_stack, stacks_of


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


def test_a_difference_of_branches_on_one_state_is_told() -> None:
    (refusal,) = stacks_of(
        Function(lambda self, x: torch.tanh(self.a(x)) - torch.tanh(self.b(x)), **named_linears(2))
    ).refused
    assert refusal.reason.endswith("is a sum of 2 branches that all read inputs_0: they are parallel already")
