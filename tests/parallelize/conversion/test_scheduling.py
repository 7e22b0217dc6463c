"""Networks in which nothing is to be scheduled: what `convert` makes of them, and what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paraformer.checkpoint import Checkpoint, save
from paraformer.model import VisionConfig, VisionParaFormer
from parallelize.conversion.convert import convert
from parallelize.conversion.goal import AtDepth, Replay, Within
from parallelize.conversion.notes import facts
from parallelize.conversion.options import ConvertOptions
from parallelize.conversion.scheduling import why_unscheduled
from parallelize.healing.options import HealOptions
from parallelize.models.capture import capture
from passes.errors import ParallelizeError
from passes.graph.agreement import largest_change
from passes.graph.outputs import flat_outputs
from passes.plan import Plan, serial
from passes.stacks.find import find_stacks
from passes.stacks.stack_graph import StackGraph, stack_graph
from tests.parallelize.small_models import (
    SMALL,
    Towers,
    capture_images,
    capture_vectors,
    images,
    mlp,
    pairs,
    vision,
)

QUICK = ConvertOptions(rounds=1)


def para_former(depth: int, branches: int) -> VisionParaFormer:
    torch.manual_seed(depth)
    return VisionParaFormer(replace(SMALL, depth=depth, mode="para-former", branches=branches)).eval()


def graph_of(model: nn.Module) -> StackGraph:
    return stack_graph(find_stacks(capture_vectors(model, 6).module).stacks)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, images=images(40, 1).arrays["images"].numpy())
    return path


@pytest.mark.parametrize(
    ("depth", "branches", "with_data"),
    [
        (2, 2, True),
        *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in ((1, 1, False), (3, 3, False), (4, 2, True))),
    ],
)
def test_a_para_former_of_any_size_is_fused_and_reported_as_it_is(
    depth: int, branches: int, with_data: bool, data: Path, tmp_path: Path
) -> None:
    model = para_former(depth, branches)
    path = tmp_path / "para_former.pt"
    save(path, Checkpoint(model.config, model.state_dict()))
    made = convert(str(path), tmp_path / "out", inputs=data if with_data else None, options=QUICK)
    assert made.report.names == ("serial", "fused")
    assert made.plan.is_serial
    assert made.report.deletion_plan is None
    assert {network.depth_blocks for network in made.report.networks} == {depth // branches}
    said = "the network is one block deep" if branches == 1 else f"its {branches} stacks are branches that run side"
    assert any(f"Nothing was scheduled: {said}" in note for note in facts(made.report))
    pixels = images(5, 2).arrays["images"]
    assert largest_change([model(pixels).detach()], flat_outputs(made.program.module, (pixels,))) < 1e-5
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"model.pt2", "model.onnx", "plan.json", "report.html", "before.svg", "after.svg"} <= written


@pytest.mark.slow
def test_branches_of_two_blocks_are_scheduled_where_a_depth_asks_for_it(tmp_path: Path) -> None:
    program = capture_images(para_former(4, 2))
    made = convert(program, tmp_path / "out", options=replace(QUICK, depth=1))
    assert made.report.unscheduled is None
    depths = {network.name: network.depth_blocks for network in made.report.networks}
    assert depths == {"serial": 2, "rewrite, as is": 1, "deletion, as is": 1}
    assert [part.depth for part in made.plan.stacks] == [2, 2]


@pytest.mark.slow
def test_a_depth_that_the_network_has_already_rewrites_nothing_and_builds_no_rivals(tmp_path: Path) -> None:
    made = convert(vision(2), tmp_path / "out", options=replace(QUICK, depth=2))
    assert made.report.names == ("serial", "fused")
    assert made.report.unscheduled == "the network is 2 blocks deep as it is, and 2 were asked for"
    assert made.report.search == ()


@pytest.mark.slow
def test_parallel_branches_without_any_stack_are_fused(tmp_path: Path) -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branches = nn.ModuleList(mlp(6, 12) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.branches[0](x) + self.branches[1](x) + self.branches[2](x)
            return y

    program = capture(Sum().eval(), (torch.zeros(2, 6),), origin="sum")
    made = convert(program, tmp_path / "out", options=QUICK)
    assert made.report.unscheduled == "the network has no residual stack"
    assert any("Width fusion fused" in note for note in facts(made.report))


def test_a_network_without_stacks_and_branches_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParallelizeError, match="has no residual stack and no parallel branches"):
        convert(capture_vectors(mlp(6, 12), 6), tmp_path / "out", options=QUICK)


def test_healing_what_is_not_rewritten_is_refused(tmp_path: Path, data: Path) -> None:
    options = replace(QUICK, depth=2, heal=HealOptions(steps=1))
    with pytest.raises(ParallelizeError, match="There is nothing to heal: the network is 2 blocks deep as it is"):
        convert(vision(2), tmp_path / "out", inputs=data, options=options)


def test_why_nothing_is_scheduled_depends_on_what_was_asked_for() -> None:
    by_default = Within(is_default=True)
    towers = graph_of(Towers((2, 2)))
    assert towers.is_parallel
    assert why_unscheduled(towers, AtDepth(1)) is None
    assert why_unscheduled(towers, Within()) is None
    said = "its 2 stacks are branches that run side by side already (--depth 1 would schedule each of them)"
    assert why_unscheduled(towers, by_default) == said
    assert why_unscheduled(graph_of(Towers((3, 2))), by_default) is None
    assert why_unscheduled(graph_of(Towers((3, 2))), AtDepth(2)) is None
    assert why_unscheduled(graph_of(Towers((3, 2))), AtDepth(3)) is not None
    one_each = "its 2 stacks are branches that run side by side already"
    assert why_unscheduled(graph_of(Towers((1, 1))), Within()) == one_each
    vit = stack_graph(find_stacks(vision().module).stacks)
    assert why_unscheduled(vit, Replay(pairs("none"))) is None
    said = "the plan leaves every stack as it was captured"
    assert why_unscheduled(vit, Replay(Plan((serial(8),), seed=3))) == said


def test_blocks_of_different_kinds_are_no_group() -> None:
    config = VisionConfig(depth=1, width=8, heads=2, hidden=16, image_size=8)
    found = find_stacks(capture_images(VisionParaFormer(config)).module).stacks
    assert why_unscheduled(stack_graph(found), AtDepth(1)) == "the network is one block deep"


def test_a_budget_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParallelizeError, match=r"A largest error is measured on data\."):
        convert(vision(), tmp_path / "out", options=replace(QUICK, max_error=0.1))
