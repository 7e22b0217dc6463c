"""A working directory for commands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from paraformer.checkpoint import Checkpoint, save
from paraformer.model import VisionParaFormer
from tests.parallelize.cli.commands import FACTORIES
from tests.parallelize.small_models import SMALL


def filled(folder: Path) -> Path:
    """The folder with a checkpoint of two blocks, factories, and data that fit both."""
    torch.manual_seed(0)
    config = replace(SMALL, depth=2)
    save(folder / "model.pt", Checkpoint(config, VisionParaFormer(config).state_dict(), {}))
    (folder / "factories.py").write_text(FACTORIES)
    numbers = np.random.default_rng(0)
    pixels = numbers.integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
    np.savez(folder / "data.npz", images=pixels, labels=numbers.integers(0, 10, 40))
    np.savez(folder / "rows.npz", x=numbers.standard_normal((40, 4)).astype("f4"))
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a model and data."""
    monkeypatch.chdir(tmp_path)
    return filled(tmp_path)
