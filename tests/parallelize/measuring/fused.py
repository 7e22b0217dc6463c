"""A directory as `convert` leaves it: four MLPs two by two, fused and with their branches apart."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from parallelize.models.capture import capture
from parallelize.models.program import Program
from parallelize.models.saving import BRANCHES, save_program
from passes.registry import FUSION
from passes.runner import run_passes
from tests.passes.models import Levels, Mlp, Residual, plan_of, randomised, scheduled, tokens

PAIRS = (((0,), (1,)), ((2,), (3,)))
ALL = (((0,), (1,), (2,), (3,)),)
COUNT = 21  # samples


@functools.cache
def apart(levels: Levels = PAIRS) -> Program:
    """The network with its branches apart."""
    model = Residual([Mlp() for _ in range(4)], head=nn.Sequential(nn.Flatten(), nn.Linear(40, 5)))
    program = capture(randomised(model), (tokens(),))
    return replace(program, module=scheduled(program.module, 4, levels))


def write_directory(folder: Path, levels: Levels = PAIRS) -> Path:
    """Write the directory, and samples with labels beside it as samples.npz."""
    program = apart(levels)
    out = folder / "out"
    out.mkdir()
    save_program(program, out / BRANCHES)
    save_program(replace(program, module=run_passes(program.module, FUSION)[0]), out / "model.pt2")
    (out / "plan.json").write_text(plan_of(4, levels).to_json())
    (out / "report.json").write_text("{}")
    labels = expected(levels).argmax(1)
    np.savez(folder / "samples.npz", **{program.inputs[0].name: tokens(COUNT).numpy(), "classes": labels.numpy()})
    return out


def expected(levels: Levels = PAIRS) -> torch.Tensor:
    """What the network returns for all samples."""
    output: torch.Tensor = apart(levels).module(tokens(COUNT))
    return output
