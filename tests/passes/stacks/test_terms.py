"""Terms that are alike: which have one signature, and the blocks in which they repeat."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.stacks.find import find_stacks
from tests.passes.models import HIDDEN, WIDTH, Attention, Function, LayerScale, Mlp, Residual, mlps, tokens, vision
from tests.passes.stacks.found import named_linears, only_stack, stacks_of, targets_of


def test_a_block_is_the_terms_that_repeat() -> None:
    stack = only_stack(find_stacks(vision()[1]))
    assert stack.period == 2
    assert stack.blocks == ((0, 1), (2, 3), (4, 5), (6, 7))


def test_every_term_of_a_stack_of_one_kind_is_a_block() -> None:
    assert only_stack(find_stacks(mlps()[1])).blocks == tuple((term,) for term in range(6))


def test_blocks_of_unequal_widths_repeat_by_kind() -> None:
    terms = [term for hidden in (8, 16, 24) for term in (Attention("chunk"), Mlp(hidden=hidden))]
    stack = only_stack(stacks_of(Residual(terms)))
    assert len({term.signature for term in stack.terms}) == 4
    assert stack.blocks == ((0, 1), (2, 3), (4, 5))


def test_a_stack_that_repeats_nothing_has_blocks_of_one_term() -> None:
    stack = only_stack(stacks_of(Residual([Attention("chunk"), Mlp(), Mlp(hidden=20)])))
    assert stack.blocks == ((0,), (1,), (2,))


def test_a_stack_of_terms_that_are_all_of_different_kinds_is_one_block() -> None:
    assert only_stack(stacks_of(Residual([Attention("chunk"), Mlp()]))).blocks == ((0, 1),)


def test_terms_that_differ_in_parameter_values_only_have_one_signature() -> None:
    stack = only_stack(find_stacks(vision()[1]))
    attentions = {term.signature for term in stack.terms[::2]}
    perceptrons = {term.signature for term in stack.terms[1::2]}
    assert len(attentions) == len(perceptrons) == 1
    assert attentions != perceptrons


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda: Mlp(hidden=HIDDEN + 1), id="hidden width"),
        pytest.param(lambda: Mlp(bias=False), id="bias"),
        pytest.param(lambda: Mlp(activation=F.relu), id="activation"),
        pytest.param(lambda: Mlp(activation=lambda x: F.gelu(x, approximate="tanh")), id="keyword of the activation"),
        pytest.param(lambda: Mlp(nn.LayerNorm(WIDTH, eps=1e-3)), id="epsilon"),
        pytest.param(lambda: Mlp(nn.LayerNorm(WIDTH, elementwise_affine=False)), id="gain and shift"),
        pytest.param(lambda: Mlp(nn.RMSNorm(WIDTH)), id="norm"),
        pytest.param(lambda: LayerScale(Mlp()), id="layer scale"),
    ],
)
def test_terms_that_differ_in_more_than_values_have_different_signatures(other: Callable[[], nn.Module]) -> None:
    stack = only_stack(stacks_of(Residual([Mlp(), Mlp(), other()])))
    first, second, third = (term.signature for term in stack.terms)
    assert first == second
    assert first != third


def test_numbers_of_heads_make_different_signatures() -> None:
    stack = only_stack(stacks_of(Residual([Attention("unbind", heads=2), Attention("unbind", heads=4)])))
    assert stack.terms[0].signature != stack.terms[1].signature


def test_equal_places_of_alike_terms_hold_corresponding_nodes() -> None:
    stack = only_stack(find_stacks(vision()[1]))
    first, second = stack.terms[0], stack.terms[2]
    assert targets_of([n for n in first.nodes if n.op == "call_function" and n is not first.skip]) == targets_of(
        [n for n in second.nodes if n.op == "call_function" and n is not second.skip]
    )
    names = [str(node.target).replace("blocks.0", "blocks.1") for node in first.parameters]
    assert names == [node.target for node in second.parameters]
    assert len(names) == 6


def test_the_norm_after_the_add_is_part_of_the_signature() -> None:
    posts = [nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH, eps=1e-3), nn.LayerNorm(WIDTH)]
    stack = only_stack(stacks_of(Residual([Mlp(), Mlp(), Mlp(), Mlp()], posts)))
    signatures = [term.signature for term in stack.terms]
    assert signatures[0] == signatures[1] == signatures[3]
    assert signatures[0] != signatures[2]


def test_a_term_before_blocks_that_repeat_is_a_stack_of_its_own() -> None:
    terms = [nn.Linear(WIDTH, WIDTH), *(term for _ in range(2) for term in (Attention("chunk"), Mlp()))]
    found = stacks_of(Residual([*terms, Mlp(hidden=20)]))
    assert [stack.summary() for stack in found.stacks] == ["1 other", "2 attention, 2 mlp", "1 mlp"]
    assert found.stacks[1].blocks == ((0, 1), (2, 3))
    assert found.stacks[0].exit is found.stacks[1].entry


def test_terms_that_read_different_side_inputs_have_different_signatures() -> None:
    def forward(self: Function, x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        x = x + self.a(x * left)
        x = x + self.b(x * right)
        y: Tensor = x + self.c(x * left)
        return y

    stack = only_stack(stacks_of(Function(forward, **named_linears(3)), tokens(), tokens(), tokens()))
    first, second, third = (term.signature for term in stack.terms)
    assert first == third
    assert first != second


@pytest.mark.parametrize("mixing_first", [True, False])
def test_blocks_of_a_term_without_parameters_and_one_with_them_repeat(mixing_first: bool) -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for name in "abc":
            x = x + x.roll(1, 1) if mixing_first else x + getattr(self, name)(x)
            x = x + getattr(self, name)(x) if mixing_first else x + x.roll(1, 1)
        return x

    stack = only_stack(stacks_of(Function(forward, **named_linears(3))))
    assert stack.blocks == ((0, 1), (2, 3), (4, 5))
