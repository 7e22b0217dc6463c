"""Prefixes: the first k of the branches that read one state, each a Para-Former that can be used as it is.

    added     y_k = x + sum_{b <= k} (branch_b(x) - x)
    summed    y_k = sum_{b <= k} branch_b(x)
    mean      y_k = 1/k sum_{b <= k} branch_b(x)

These are running sums over the branches, so the states of all N prefixes cost N branches, not N (N + 1) / 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from paraformer.branches import Branches
from paraformer.errors import ParaFormerError
from paraformer.modes import Merge


def prefix_states(x: Tensor, ends: Tensor | Sequence[Tensor], merge: Merge) -> Tensor:
    """The states behind the first branch, behind the first two and so on.

    Args:
        x: what the branches read, (B, T, W).
        ends: the state at the end of each, (N, B, T, W).
        merge: what becomes of the branches.

    Returns:
        (N, B, T, W); the last is that of all branches.
    """
    stacked = ends if isinstance(ends, Tensor) else torch.stack(list(ends))
    if merge == "added":
        return x + (stacked - x).cumsum(0)
    sums = stacked.cumsum(0)
    if merge == "summed":
        return sums
    return sums / torch.arange(1, len(sums) + 1, device=sums.device).view(-1, 1, 1, 1)


def first_branches(branches: Branches, count: int) -> Branches:
    """The first `count` branches; their blocks are shared, not copied.

    Raises:
        ParaFormerError: there are not so many.
    """
    if not 1 <= count <= branches.count:
        raise ParaFormerError(
            f"A Para-Former of {branches.count} branches has no prefix of {count}.",
            f"Choose a number from 1 to {branches.count}.",
        )
    blocks = [block for run in branches.runs()[:count] for block in run]
    return Branches(blocks, count, branches.merge).train(branches.training)
