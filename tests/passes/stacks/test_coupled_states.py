"""Two states whose terms read each other are no stacks, and are named for what they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from passes.stacks.find import find_stacks
from tests.passes.models import WIDTH, Function, fixed_graph_of, normal, randomised


def _linears(count: int) -> dict[str, nn.Module]:
    return {f"l{number}": nn.Linear(WIDTH, WIDTH) for number in range(count)}


def _joint(self: Function, image: Tensor, text: Tensor) -> Tensor:
    for block in range(3):
        first, second, third = (getattr(self, f"l{3 * block + i}") for i in range(3))
        both = first(torch.cat([image, text], 1))
        mixed = torch.softmax(both @ both.transpose(1, 2), -1) @ both
        image = image + second(mixed[:, : image.shape[1]])
        text = text + third(mixed[:, image.shape[1] :])
    return image


def _reversible(self: Function, x: Tensor) -> Tensor:
    left, right = torch.tanh(x), torch.sin(x)
    for block in range(3):
        left = left + getattr(self, f"l{2 * block}")(right)
        right = right + getattr(self, f"l{2 * block + 1}")(left)
    return left * right


def test_states_that_share_an_attention_are_coupled() -> None:
    graph = fixed_graph_of(randomised(Function(_joint, **_linears(9))), normal(3, 4, WIDTH), normal(3, 6, WIDTH))
    found = find_stacks(graph)
    reasons = [refusal.reason for refusal in found.refused]
    assert sum("are coupled: terms of each read both" in reason for reason in reasons) >= 4
    assert "the states image and text are coupled" in reasons[0] or "the states inputs_0 and inputs_1" in reasons[0]


def test_the_halves_of_a_reversible_network_are_coupled() -> None:
    found = find_stacks(fixed_graph_of(randomised(Function(_reversible, **_linears(6))), normal(3, 4, WIDTH)))
    assert any("are coupled: terms of each read both" in refusal.reason for refusal in found.refused)


def test_a_value_that_a_head_reads_too_couples_no_states() -> None:
    def forward(self: Function, x: Tensor) -> tuple[Tensor, Tensor]:
        inner = torch.tanh(self.l0(x))
        y = x + self.l1(inner)
        return y + self.l2(y), inner + self.l3(inner)

    found = find_stacks(fixed_graph_of(randomised(Function(forward, **_linears(4))), normal(3, 4, WIDTH)))
    assert all("coupled" not in refusal.reason for refusal in found.refused)
