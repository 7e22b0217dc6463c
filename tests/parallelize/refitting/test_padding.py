"""Padding: what stands where a mask says that nothing is counts neither in a refit nor in its record."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from parallelize.data import Samples
from parallelize.models.capture import capture
from parallelize.refitting.refit import refit
from passes.plan import Refit
from tests.parallelize.small_models import mlp, stack_plan
from tests.passes.models import normal

WIDTH, HIDDEN, TOKENS = 8, 16, 6


class Padded(nn.Module):
    """Two attentions and two MLPs behind norms; attention leaves padding out."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(4))
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.mlps = nn.ModuleList(mlp(WIDTH, HIDDEN)[1:] for _ in range(2))

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        x = 2.0 * x
        keep = attention_mask.bool()[:, None, None, :]
        for block in range(2):
            qkv = self.qkv[block](self.norms[2 * block](x)).reshape(x.shape[0], x.shape[1], 3, 2, WIDTH // 2)
            mixed = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4).unbind(0), attn_mask=keep)
            x = x + self.out[block](mixed.transpose(1, 2).reshape(x.shape))
            x = x + self.mlps[block](self.norms[2 * block + 1](x))
        return x


def _padded(count: int, seed: int, filling: float) -> Samples:
    lengths = torch.randint(2, TOKENS + 1, (count,), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(TOKENS) < lengths[:, None]).long()
    x = normal(count, TOKENS, WIDTH, seed=seed)
    noise = filling * normal(count, TOKENS, WIDTH, seed=seed + 100)
    return Samples({"x": torch.where(mask[..., None].bool(), x, noise), "attention_mask": mask}, mask="attention_mask")


@pytest.mark.parametrize("strength", ["affine", "full"])
def test_what_stands_at_padding_changes_neither_the_solution_nor_its_record(strength: Refit) -> None:
    torch.manual_seed(0)
    network = Padded().double().eval()
    teacher = capture(network, tuple(_padded(2, 0, 1.0).arrays.values()), origin="padded").module
    plan = stack_plan(4, [[[0], [2]], [[1], [3]]], strength)
    clean, dirty = (refit(teacher, plan, _padded(80, 1, filling), _padded(40, 2, filling)) for filling in (0.0, 50.0))
    assert any(level.read_ins for level in clean.levels)
    assert [level.strength for level in clean.levels] == [strength] * 2
    for ours, theirs in zip(clean.levels, dirty.levels, strict=True):
        assert (ours.ridge, ours.strength, len(ours.read_ins)) == (theirs.ridge, theirs.strength, len(theirs.read_ins))
        assert (ours.before, ours.after) == pytest.approx((theirs.before, theirs.after), rel=1e-9)
    weights = clean.module.state_dict(), dirty.module.state_dict()
    assert list(weights[0]) == list(weights[1])
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=1e-12, msg=name)


def test_padding_counts_where_no_mask_says_so() -> None:
    """The same samples under another name of the mask: what stands at padding matters then."""
    torch.manual_seed(0)
    teacher = capture(Padded().double().eval(), tuple(_padded(2, 0, 1.0).arrays.values()), origin="padded").module
    plan = stack_plan(4, [[[0], [2]], [[1], [3]]], "affine")

    def renamed(samples: Samples) -> Samples:
        return Samples(dict(zip(("x", "keep"), samples.arrays.values(), strict=True)))

    clean, dirty = (
        refit(teacher, plan, renamed(_padded(80, 1, filling)), renamed(_padded(40, 2, filling)))
        for filling in (0.0, 50.0)
    )
    assert clean.levels[0].after != pytest.approx(dirty.levels[0].after, rel=1e-3)
