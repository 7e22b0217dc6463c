"""A solution that is read part by part foretells what all of it does."""

from __future__ import annotations

import torch

from tests.parallelize.refitting.regressions import given


def test_parts_of_the_features_add_up() -> None:
    features, weight = torch.randn(7, 10, dtype=torch.float64), torch.randn(10, 3, dtype=torch.float64)
    solution = given(weight)
    whole = solution.predicted([(0, features)])
    parts = solution.predicted((start, features[:, start : start + 4]) for start in (0, 4, 8))
    torch.testing.assert_close(whole, features @ weight)
    torch.testing.assert_close(parts, whole)
