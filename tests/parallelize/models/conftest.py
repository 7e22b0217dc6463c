"""A vision transformer to capture."""

from __future__ import annotations

import pytest
import torch

from paraformer.model import VisionConfig, VisionParaFormer

SMALL = VisionConfig(depth=2, width=16, heads=2, hidden=32)


@pytest.fixture(scope="module")
def vision() -> VisionParaFormer:
    torch.manual_seed(0)
    return VisionParaFormer(SMALL).eval()
