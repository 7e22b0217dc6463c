"""Kinds: what a term computes, by its operators."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.stacks.find import find_stacks
from tests.passes.models import WIDTH, Attention, Function, GatedMlp, Mlp, fixed_graph_of, normal, randomised, tokens


def _linears(names: str) -> dict[str, nn.Module]:
    return {name: nn.Linear(WIDTH, WIDTH) for name in names}


def _kind(module: nn.Module, example: Tensor) -> str:
    (stack,) = find_stacks(fixed_graph_of(randomised(module), example)).stacks
    (term,) = stack.terms
    return term.kind


def _attend(self: Function, x: Tensor) -> Tensor:
    y: Tensor = self.v(torch.softmax(self.q(x) @ x.transpose(1, 2), -1) @ x)
    return y


def _experts(self: Function, x: Tensor) -> Tensor:
    """Two experts, mixed by a softmax: products with stored matrices only."""
    gates = torch.softmax(self.gate(x), -1)
    hidden = F.gelu(torch.einsum("btd,edh->beth", x, self.up))
    return torch.einsum("beth,ehd,bte->btd", hidden, self.down, gates)


TEXT: dict[str, tuple[Callable[[Function, Tensor], Tensor], dict[str, nn.Module | Tensor], str]] = {
    "one linear": (lambda self, x: self.a(x), {**_linears("a")}, "other"),
    "attention written out": (_attend, {**_linears("qv")}, "attention"),
    "products with stored matrices": (
        lambda self, x: F.gelu(x @ self.up) @ self.down,
        {"up": torch.empty(WIDTH, 12), "down": torch.empty(12, WIDTH)},
        "mlp",
    ),
    "a mixture of experts": (
        _experts,
        {"gate": nn.Linear(WIDTH, 2), "up": torch.empty(2, WIDTH, 12), "down": torch.empty(2, 12, WIDTH)},
        "mlp",
    ),
    "gated": (lambda self, x: self.a(x), {"a": GatedMlp()}, "mlp"),
    "attention beside mlp": (
        lambda self, x: self.a(x) + self.m(x),
        {"a": Attention("chunk"), "m": Mlp()},
        "attention+mlp",
    ),
    "mlp beside mlp": (lambda self, x: self.a(x) + self.m(x), {"a": Mlp(), "m": Mlp()}, "mlp"),
}


@pytest.mark.parametrize(("forward", "parts", "kind"), TEXT.values(), ids=TEXT.keys())
def test_a_term_on_tokens_is_of_the_kind_that_it_computes(
    forward: Callable[[Function, Tensor], Tensor], parts: dict[str, nn.Module | Tensor], kind: str
) -> None:
    assert _kind(Function(lambda self, x: x + forward(self, x), **parts), tokens()) == kind


def test_attention_and_mlp_that_are_added_to_one_state_one_after_the_other_are_one_term_of_both_kinds() -> None:
    model = Function(lambda self, x: (x + self.a(x)) + self.m(x), a=Attention("chunk"), m=Mlp())
    assert _kind(model, tokens()) == "attention+mlp"


@pytest.mark.parametrize(
    ("sizes", "kind"),
    [((1, 1), "mlp"), ((1, 3), "convolution"), ((3, 3), "convolution"), ((1,), "convolution")],
)
def test_convolutions_of_one_pixel_are_an_mlp_and_larger_ones_are_not(sizes: tuple[int, ...], kind: str) -> None:
    layers = nn.Sequential(*(nn.Conv2d(WIDTH, WIDTH, size, padding=size // 2) for size in sizes))
    assert _kind(Function(lambda self, x: x + self.layers(x), layers=layers), normal(2, WIDTH, 6, 6)) == kind
