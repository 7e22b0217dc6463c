"""A conversion is read as the Para-Former that it is, and what is none is refused with the reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from paraformer.checkpoint import Checkpoint, save
from paraformer.config import ParaFormerConfig
from paraformer.network import ParaFormer
from paraformer.twins import from_serial
from parallelize.models.capture import capture, export
from parallelize.models.clean import clean
from parallelize.models.para_former import load_para_former
from parallelize.models.program import Program
from passes.errors import ParallelizeError
from passes.plan import Level, Plan, serial
from passes.registry import FUSION
from passes.runner import run_passes
from passes.schedule.apply_plan import ApplyPlan
from tests.paraformer.models import Feed, images, randomised, sequences, tokens, unpadded, vision

BLOCKS = 4
SERIAL = [
    pytest.param(vision(1, BLOCKS), images, id="images"),
    pytest.param(vision(1, BLOCKS, pooling="cls"), images, id="learned token"),
    pytest.param(tokens(1, BLOCKS), sequences, id="tokens"),
    pytest.param(tokens(1, BLOCKS, task="next-token", classes=20), unpadded, id="next token"),
]


def _program(model: nn.Module, feed: Feed) -> Program:
    inputs = tuple(value.float() if value.is_floating_point() else value for value in feed())
    free = {0: "batch"} if feed is images else {0: "batch", 1: "tokens"}
    return clean(capture(model.float(), inputs, dynamic=[free] * len(inputs)))[0]


def _converted(program: Program, levels: list[list[list[int]]]) -> Program:
    """Scheduled and fused."""
    placed = tuple(Level(tuple(map(tuple, level))) for level in levels)
    plan = Plan((replace(serial(2 * BLOCKS), levels=placed),))
    return replace(program, module=run_passes(program.module, [ApplyPlan(plan), *FUSION])[0])


def _one_level(branches: int) -> list[list[list[int]]]:
    length = 2 * BLOCKS // branches
    return [[list(range(first, first + length)) for first in range(0, 2 * BLOCKS, length)]]


def _close(found: ParaFormer, expected: ParaFormer, feed: Feed) -> None:
    inputs = tuple(value.float() if value.is_floating_point() else value for value in feed())
    torch.testing.assert_close(found(*inputs), expected.float()(*inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("config", "feed"), SERIAL)
@pytest.mark.parametrize("branches", [2, 4])
def test_a_serial_network_on_one_level_is_the_para_former_of_its_blocks(
    config: ParaFormerConfig, feed: Feed, branches: int
) -> None:
    model = randomised(config)
    loaded = load_para_former(_converted(_program(model, feed), _one_level(branches)))
    twin = from_serial(model, branches)
    assert loaded.config == twin.config
    assert not loaded.training
    _close(loaded, twin, feed)


@pytest.mark.parametrize(("config", "feed"), SERIAL)
def test_a_serial_network_is_read_as_it_is(config: ParaFormerConfig, feed: Feed) -> None:
    model = randomised(config)
    loaded = load_para_former(_program(model, feed))
    assert loaded.config == config
    _close(loaded, model, feed)


@pytest.mark.parametrize("merge", ["added", "summed", "mean"])
def test_branches_that_were_not_fused_are_counted_and_so_is_how_they_are_merged(merge: str) -> None:
    model = randomised(vision(2, 2, merge=merge))
    loaded = load_para_former(_program(model, images))
    assert loaded.config == model.config
    _close(loaded, model, images)


def test_a_file_is_read_like_a_program_and_what_is_read_is_saved_as_a_checkpoint(tmp_path: Path) -> None:
    model = randomised(vision(1, BLOCKS))
    program = _converted(_program(model, images), _one_level(2))
    torch.export.save(export(program), tmp_path / "model.pt2")
    loaded = load_para_former(tmp_path / "model.pt2")
    save(tmp_path / "model.pt", Checkpoint(loaded.config, loaded.state_dict()))
    again = load_para_former(tmp_path / "model.pt")
    assert again.config == loaded.config
    _close(again, from_serial(model, 2), images)


@pytest.mark.parametrize(
    ("levels", "reason"),
    [
        ([[[0], [2], [4], [6]], [[1], [3], [5], [7]]], "has a level in sublayer form, which is one wide block"),
        ([[[0, 1], [2, 3]], [[4, 5], [6, 7]]], "computes something else than branches of its blocks"),
        ([[[0]], [[1]], [[2, 3], [4, 5], [6, 7]]], "runs some of its blocks wide and others not"),
    ],
    ids=["sublayer form", "two levels", "serial and wide"],
)
def test_a_schedule_that_is_no_single_level_of_branches_is_refused(levels: list[list[list[int]]], reason: str) -> None:
    program = _converted(_program(randomised(vision(1, BLOCKS)), images), levels)
    with pytest.raises(ParallelizeError, match=f"is no Para-Former: it {reason}") as caught:
        load_para_former(program)
    assert "one level in block form" in caught.value.hint


def test_out_projections_that_read_more_than_heads_are_refused() -> None:
    program = _converted(_program(randomised(vision(1, BLOCKS)), images), _one_level(4))
    weight = program.module.get_parameter("wide_weight_1")
    program.module.register_parameter("wide_weight_1", nn.Parameter(torch.cat([weight, weight[:, :3]], 1)))
    with pytest.raises(ParallelizeError, match="has out-projections that read more than its heads"):
        load_para_former(program)


def test_another_network_is_refused() -> None:
    encoder = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True).eval()
    program = capture(encoder, (torch.zeros(2, 5, 16),))
    with pytest.raises(ParallelizeError, match="is no Para-Former: it does not embed and read out as one does"):
        load_para_former(program)
