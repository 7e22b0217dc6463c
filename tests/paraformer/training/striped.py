"""A problem that is learned in seconds, and a small model for it."""

from __future__ import annotations

from paraformer.config import VisionConfig
from paraformer.data.labelled import Dataset
from paraformer.training.options import TrainingOptions
from tests.paraformer.idx_files import stripes

CONFIG = VisionConfig(depth=2, width=16, heads=2, hidden=32, image_size=8, patch_size=4, classes=2)
OPTIONS = TrainingOptions(epochs=3, batch_size=16)
TRAIN, TEST = stripes(70, 8, 0), stripes(30, 8, 1)
DATA = Dataset("stripes", TRAIN, TEST, ("vertical", "horizontal"))
