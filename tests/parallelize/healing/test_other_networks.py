"""Healing where samples are padded, outputs are no logits, states are wide, or there are no samples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from parallelize.data import Samples
from parallelize.healing.heal import channels, heal
from parallelize.healing.options import HealOptions
from parallelize.models.capture import capture
from parallelize.models.program import Program
from parallelize.refitting.records import Refitted
from parallelize.refitting.refit import refit
from passes.errors import ParallelizeError
from passes.stacks.find import find_stacks
from tests.parallelize.healing.cases import FAST, FIT, HELD_OUT, PLAN
from tests.parallelize.small_models import Residual, mlp, stack_plan, vision


class Tokens(nn.Module):
    """(batch, tokens, width) and a mask -> logits of every token."""

    def __init__(self) -> None:
        super().__init__()
        self.terms = nn.ModuleList(mlp(8, 16) for _ in range(4))
        self.head = nn.Linear(8, 12)

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        for term in self.terms:
            x = x + term(x)
        y: Tensor = self.head(x * attention_mask.unsqueeze(-1))
        return y


@pytest.fixture(scope="module")
def tokens() -> Program:
    torch.manual_seed(0)
    return capture(Tokens().eval(), (torch.zeros(2, 5, 8), torch.ones(2, 5)), origin="tokens")


def _token_samples(count: int, seed: int, padding: float) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 5, 8, generator=generator)
    mask = (torch.arange(5) < torch.randint(1, 6, (count, 1), generator=generator)).float()
    return Samples(
        {"x": torch.where(mask[..., None].bool(), x, padding), "attention_mask": mask}, mask="attention_mask"
    )


@pytest.mark.slow
def test_padding_takes_no_part_in_healing(tokens: Program) -> None:
    plan = stack_plan(4, [[[0], [1], [2], [3]]], "none")
    rewritten = refit(tokens.module, plan, _token_samples(60, 0, 0.0), _token_samples(20, 1, 0.0))
    first, second = (
        heal(rewritten, tokens.module, plan, _token_samples(60, 0, value), _token_samples(20, 1, value), FAST)
        for value in (0.0, 9.0)
    )
    assert first.after < 0.5 * first.before
    assert second.after == pytest.approx(first.after, rel=1e-3)


def test_healing_needs_samples(refitted: Refitted) -> None:
    for fit, held_out in ((FIT.head(0), HELD_OUT), (FIT, HELD_OUT.head(0))):
        with pytest.raises(ParallelizeError, match="needs samples"):
            heal(refitted, vision(2).module, PLAN, fit, held_out, FAST)


def test_the_width_of_a_state_is_its_channels(refitted: Refitted) -> None:
    assert heal(refitted, vision(2).module, PLAN, FIT, HELD_OUT, HealOptions(steps=1)).learning_rate == 1e-3
    residual = Residual([nn.Conv2d(96, 96, 1) for _ in range(2)])
    program = capture(nn.Sequential(nn.Conv2d(3, 96, 1), residual).eval(), (torch.ones(2, 3, 8, 8),))
    assert [channels(stack) for stack in find_stacks(program.module).stacks] == [96]
    residual = Residual([nn.Linear(96, 96) for _ in range(2)])
    program = capture(residual.eval(), (torch.ones(2, 8, 8, 96),), origin="channels last")
    assert [channels(stack) for stack in find_stacks(program.module).stacks] == [96]
