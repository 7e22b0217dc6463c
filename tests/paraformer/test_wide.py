"""Wide operations: norms fold into linears, and a mask is told to every branch."""

from __future__ import annotations

import torch
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from paraformer.wide import fold_norm, for_each_branch


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_a_folded_norm_leaves_a_linear_behind_a_norm_without_weights() -> None:
    torch.manual_seed(0)
    weight, bias, gamma, beta = _random(3, 5, 8), _random(3, 5), _random(3, 8), _random(3, 8)
    folded_weight, folded_bias = fold_norm(weight, bias, gamma, beta)
    x = _random(4, 8)
    for branch in range(3):
        expected = F.linear(F.layer_norm(x, (8,), gamma[branch], beta[branch]), weight[branch], bias[branch])
        folded = F.linear(F.layer_norm(x, (8,)), folded_weight[branch], folded_bias[branch])
        torch.testing.assert_close(folded, expected, rtol=0, atol=1e-12)


def test_a_mask_is_repeated_branch_by_branch() -> None:
    mask = torch.tensor([[True, False], [True, True]])[:, None, None]
    repeated = for_each_branch(mask, 3)
    assert repeated is not None
    assert torch.equal(repeated.view(3, 2, 1, 1, 2), mask.expand(3, 2, 1, 1, 2))
    assert for_each_branch(None, 3) is None
