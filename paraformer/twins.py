"""A serial network as a Para-Former and back: the same weights in the same places, run the other way.

    from_serial(model, N)   branch b is blocks b d .. (b + 1) d - 1 of the serial network, d = depth / N
    to_serial(model)        the branches' blocks one after another

These are equal to the network that they came from where the mathematics is: for one branch, and for blocks that add
nothing. Otherwise the copy is of the structure, a start to train from: every branch reads the embedding instead of the
state that its blocks were trained on. `parallelize convert` finds out which blocks bear this, and refits them.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import TypeVar

from paraformer.branches import Branches
from paraformer.errors import ParaFormerError
from paraformer.modes import Merge, Mode
from paraformer.network import ParaFormer

Model = TypeVar("Model", bound=ParaFormer)


def from_serial(model: Model, branches: int, merge: Merge = "added") -> Model:
    """A Para-Former of `branches` branches with a copy of a serial network's weights.

    Raises:
        ParaFormerError: the model has several branches already, or its blocks cannot be shared out evenly.
    """
    if model.config.branch_count > 1:
        raise ParaFormerError(
            f"The model is a Para-Former of {model.config.branch_count} branches, not a serial network.",
            "Make it serial first with to_serial, or take the model that it came from.",
        )
    if branches < 1 or model.config.depth % branches:
        raise ParaFormerError(
            f"{model.config.depth} blocks are not {branches} branches of equal depth.",
            f"Choose a number that divides {model.config.depth}.",
        )
    return _as(model, "para-former", branches, merge)


def to_serial(model: Model) -> Model:
    """The serial network of a Para-Former's blocks, with a copy of its weights."""
    return _as(model, "serial", 1, "added")


def _as(model: Model, mode: Mode, count: int, merge: Merge) -> Model:
    blocks = model.unfuse().blocks
    assert isinstance(blocks, Branches)
    branches = Branches([deepcopy(block) for block in blocks], count, merge).train(model.training)
    return model.with_blocks(branches, replace(model.config, mode=mode, branches=count, merge=merge))
