"""Deep and narrow networks go through every step: nothing recurses over depth."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from paraformer.model import VisionConfig, VisionParaFormer
from parallelize.models.capture import capture
from parallelize.models.clean import clean
from passes.fusion.fuse_width import FuseWidth
from passes.plan import Plan, grouped
from passes.runner import run_passes
from passes.schedule.apply_plan import ApplyPlan
from passes.stacks.find import find_stacks
from tests.passes.models import normal, randomised

BLOCKS = 300


def after_pairs(model: VisionParaFormer, x: Tensor) -> Tensor:
    """The sublayer form of neighbouring pairs, written out: both attentions read one state, then both MLPs."""
    for first, second in zip(model.blocks[::2], model.blocks[1::2], strict=True):
        pair = (first, second)
        x = x + sum(block.attention(block.norm1(x)) for block in pair)
        x = x + sum(block.down(torch.nn.functional.gelu(block.up(block.norm2(x)))) for block in pair)
    return x


@pytest.mark.slow
def test_300_blocks_are_cleaned_found_rewritten_and_fused_with_right_numbers() -> None:
    config = VisionConfig(depth=BLOCKS, width=16, heads=2, hidden=32, image_size=8, patch_size=4)
    model = VisionParaFormer(config)
    randomised(model)
    program = capture(model, (normal(3, 1, 8, 8),))
    cleaned, _ = clean(program)
    (stack,) = find_stacks(cleaned.module).stacks
    assert len(stack.terms) == 2 * BLOCKS
    pairs = [stack.blocks[i : i + 2] for i in range(0, BLOCKS, 2)]
    pixels = 100 * normal(2, 1, 8, 8)
    rewritten, _ = run_passes(cleaned.module, [ApplyPlan(Plan((grouped(len(stack.terms), pairs),)))])
    fused, (record,) = run_passes(rewritten, [FuseWidth()], [pixels])
    assert len(record.matches) == BLOCKS
    assert record.error is not None
    assert record.error < 1e-10
    with torch.no_grad():
        expected = model.head(model.norm(after_pairs(model, model.embed(pixels))).mean(1))
    assert torch.allclose(fused(pixels), expected, rtol=1e-9, atol=1e-9)
