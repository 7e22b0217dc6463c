"""Chains of terms: what links one to the next, and what may not be moved, each refused with its reason."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.stacks.chains import find_chains
from passes.stacks.find import Refusal
from tests.passes.drawn import drawn
from tests.passes.models import WIDTH, Function, Mlp, Residual, randomised, tokens, written_out_gelu
from tests.passes.stacks.found import named_linears, only_stack, stacks_of

MLPS = tuple(randomised(Mlp(), seed) for seed in (1, 2))


def test_an_activation_written_out_in_a_head_is_no_residual_add() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        x = x + self.a(x)
        y: Tensor = self.b(written_out_gelu(self.c(x)))
        return y

    assert len(only_stack(stacks_of(Function(forward, **named_linears(3)))).terms) == 1


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


def _chains(forward: Callable[[Tensor], Tensor]) -> list[int]:
    """The lengths of the chains of a function, none of whose sums is refused."""
    found = find_chains(drawn(forward, tokens()))
    assert found.refused == ()
    return [len(chain) for chain in found.chains]


def test_the_next_term_reads_what_the_last_one_made_and_a_new_state_begins_a_new_chain() -> None:
    a, b = MLPS

    def forward(x: Tensor) -> Tensor:
        x = x + a(x)
        x = torch.sub(x, b(x), alpha=0.5)  # in another spelling, and a link of the chain all the same
        y = a(x)
        return y + b(y)

    assert _chains(forward) == [2, 1]


def test_a_term_without_parameters_is_a_link_where_the_next_reads_it_and_last_where_the_chain_repeats_it() -> None:
    a, b = MLPS

    def forward(x: Tensor, *, last: bool) -> Tensor:
        x = x + a(x)
        x = x + x.roll(1, 1)
        x = x + b(x)
        return x + x.roll(1, 1) if last else x

    assert _chains(lambda x: forward(x, last=False)) == [3]
    assert _chains(lambda x: forward(x, last=True)) == [4]


def test_the_last_term_ends_in_a_norm_where_one_a_block_before_does() -> None:
    a, b = MLPS

    def forward(x: Tensor, *, norms: tuple[bool, ...]) -> Tensor:
        for number, has_norm in enumerate(norms):
            x = x + (a, b)[number % 2](x)
            x = F.layer_norm(x, [WIDTH]) if has_norm else x
        return x

    def posts(*norms: bool) -> list[int]:
        (chain,) = find_chains(drawn(lambda x: forward(x, norms=norms), tokens())).chains
        return [len(add.post) for add in chain]

    assert posts(False, True, False, True) == [0, 1, 0, 1]
    assert posts(True, True, True) == [1, 1, 1]
    assert posts(False, False, True) == [0, 0, 0]  # the norm of a head


def test_of_a_chain_around_a_longer_one_what_lies_on_both_sides_stays() -> None:
    a, b = MLPS

    def inner(x: Tensor) -> Tensor:
        y = a(x)
        for _ in range(6):
            y = y + b(y)
        return y

    def forward(x: Tensor) -> Tensor:
        for term in (a, b, inner, b, a):
            x = x + term(x)
        return x

    found = find_chains(drawn(forward, tokens()))
    assert [len(chain) for chain in found.chains] == [2, 6, 2]
    assert [refusal.reason for refusal in found.refused] == ["the term holds a longer stack of its own"]


def test_an_operator_that_is_no_norm_between_two_chains_is_named() -> None:
    a, b = MLPS

    def forward(x: Tensor) -> Tensor:
        for _ in range(2):
            x = x + a(x)
        x = x.flip(1)
        for _ in range(2):
            x = x + b(x)
        return x

    found = find_chains(drawn(forward, tokens()))
    assert [len(chain) for chain in found.chains] == [2, 2]
    (refusal,) = found.refused
    assert refusal.reason == "flip (aten.flip.default) between add_1 and flip, the next state, is no norm or activation"
