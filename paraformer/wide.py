"""Branches of equal shape as few wide operations: N of them in the operators of one.

    first block      every branch reads x: one LayerNorm without weights, one product with all in-projections side by
                     side, one attention of N * heads heads
    further blocks   a branch's state is its own: products batched over a leading branch axis, attention over N * batch
    norms            gamma and beta of a LayerNorm lie in the linear behind it: W' = W gamma, b' = b + W beta

All functions are pure: weights come in as `BlockWeights`, so that leaves that are trained and constants that were
folded once run through the same lines. N counts branches, B is the batch, T tokens, W the width, F hidden features.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)


class BlockWeights(NamedTuple):
    """One block of every branch, norms folded into what follows them.

    Attributes:
        qkv_weight: of the first block (3NW, W), rows by query, key, value, then branch; of others (N, W, 3W).
        qkv_bias: of the first block (3NW,), of others (N, 1, 3W).
        out_weight: (N, W, W), as all below with the features read first.
        out_bias: (N, 1, W).
        up_weight: (N, W, F).
        up_bias: (N, 1, F).
        down_weight: (N, F, W).
        down_bias: (N, 1, W).
    """

    qkv_weight: Tensor
    qkv_bias: Tensor
    out_weight: Tensor
    out_bias: Tensor
    up_weight: Tensor
    up_bias: Tensor
    down_weight: Tensor
    down_bias: Tensor


class Shape(NamedTuple):
    """What the weights do not tell."""

    branches: int
    heads: int
    causal: bool
    eps: tuple[float, float]  # of the two norms


def mixed(x: Tensor, state: Tensor, mask: Tensor | None, weights: BlockWeights, shape: Shape) -> Tensor:
    """What the heads of all branches read, before the out-projections: (N, BT, W).

    Args:
        x: what the branches read, for its sizes (B, T, W).
        state: (BT, W) where all branches read the same, else (N, BT, W).
        mask: boolean, broadcasts to (B, 1, T, T).
        weights: of the block.
        shape: of the branches.
    """
    batch, tokens, width = x.shape
    branches, heads, causal, eps = shape
    size = width // heads
    normed = F.layer_norm(state, (width,), eps=eps[0])
    is_causal = causal and mask is None
    if state.ndim == 2:
        qkv = F.linear(normed, weights.qkv_weight, weights.qkv_bias).view(batch, tokens, 3, branches * heads, size)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        read = F.scaled_dot_product_attention(query, key, value, mask, is_causal=is_causal)
        return read.transpose(1, 2).reshape(batch * tokens, branches, width).transpose(0, 1)
    qkv = torch.baddbmm(weights.qkv_bias, normed, weights.qkv_weight)
    query, key, value = qkv.view(branches * batch, tokens, 3, heads, size).permute(2, 0, 3, 1, 4).unbind(0)
    read = F.scaled_dot_product_attention(query, key, value, mask, is_causal=is_causal)
    return read.transpose(1, 2).reshape(branches, batch * tokens, width)


def hidden(state: Tensor, weights: BlockWeights, shape: Shape) -> Tensor:
    """Hidden activations of all branches, of states (N, BT, W): (N, BT, F)."""
    normed = F.layer_norm(state, state.shape[-1:], eps=shape.eps[1])
    return F.gelu(torch.baddbmm(weights.up_bias, normed, weights.up_weight))


def for_each_branch(mask: Tensor | None, branches: int) -> Tensor | None:
    """A mask (B, ...) for the N * B samples of further blocks."""
    return None if mask is None else mask.repeat(branches, 1, 1, 1)


def fold_norm(weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """A norm's weights (N, W) in the linear that follows it: its weight (N, O, W) and bias (N, O), folded."""
    shifted = torch.baddbmm(bias.unsqueeze(2), weight, beta.unsqueeze(2)).squeeze(2)
    return weight * gamma.unsqueeze(1), shifted
