"""Branches that are added to a trained Para-Former, whose own stay as they are.

The out-projections of a new branch are zero, so it ends in what it read. With merge "added" it adds nothing to the
state, and nothing changes at first; where each branch brings its own copy of the state, one copy comes in.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn

from paraformer.branches import Branches
from paraformer.errors import TrainingError
from paraformer.model import build
from paraformer.network import ParaFormer

Model = TypeVar("Model", bound=ParaFormer)


def grown(model: Model, branches: int, seed: int = 0) -> Model:
    """A Para-Former of `branches` branches whose first are a copy of the model's; a serial network is one branch.

    Raises:
        TrainingError: it has as many already.
    """
    old = model.config.branch_count
    if branches <= old:
        raise TrainingError(
            f"A model of {old} branches is not grown to {branches}.", f"Ask for {old + 1} --branches or more."
        )
    config = replace(model.config, mode="para-former", branches=branches, depth=branches * model.config.branch_depth)
    torch.manual_seed(seed)
    fresh, looped = build(config).blocks, model.unfuse().blocks
    assert isinstance(fresh, Branches)
    assert isinstance(looped, Branches)
    added = [block for run in fresh.runs()[old:] for block in run]
    for linear in (linear for block in added for linear in (block.attention.out, block.down)):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    merged = Branches([*deepcopy(list(looped)), *added], branches, config.merge)
    return model.with_blocks(merged.to(model.head.weight.dtype).train(model.training), config)


def keep(model: ParaFormer, kept: int) -> None:
    """Train the branches behind the first `kept` ones, the norm and the head, and nothing else."""
    assert isinstance(model.blocks, Branches)
    model.requires_grad_(requires_grad=False)
    trained = [block for run in model.blocks.runs()[kept:] for block in run]
    for module in (*trained, model.norm, model.head):
        module.requires_grad_(requires_grad=True)
