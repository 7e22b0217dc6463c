"""What the tests of references share: loading one, being refused, and small models to name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from paraformer import checkpoint
from paraformer.model import VisionConfig, VisionParaFormer
from parallelize.data import parse_inputs
from parallelize.models.sources import LoadOptions, load_program
from passes.errors import ParallelizeError

SMALL = VisionConfig(depth=2, width=16, heads=2, hidden=32)
FACTORY = """
import torch
from torch import nn
from beside import WIDTH

class Model(nn.Module):
    def __init__(self, width=WIDTH):
        super().__init__()
        self.first = nn.Linear(4, width)
        self.drop = nn.Dropout()
        self.second = nn.Linear(width, 2)

    def forward(self, x, scale=None):
        y = self.second(self.drop(self.first(x)))
        return y if scale is None else y * scale

def small():
    torch.manual_seed(0)
    return Model()

def with_example():
    model = small()
    model.example_inputs = lambda: (torch.zeros(1, 4),)
    return model

def broken():
    raise ValueError("no such size\\nand more")

def needs_width(width):
    return Model(width)

class Home:
    make = staticmethod(small)

ready = small()
number = 3
def text(): return "text"
"""


def load(reference: str, *inputs: str, samples: dict[str, np.ndarray] | None = None, **options: Any) -> Any:
    return load_program(reference, LoadOptions(input_specs=parse_inputs(inputs), **options), samples)


def refusal(reference: str, *inputs: str, **options: Any) -> tuple[str, str]:
    with pytest.raises(ParallelizeError) as caught:
        load(reference, *inputs, **options)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return str(caught.value), caught.value.hint


def small_checkpoint(path: Path) -> VisionParaFormer:
    torch.manual_seed(0)
    model = VisionParaFormer(SMALL).eval()
    checkpoint.save(path, checkpoint.Checkpoint(SMALL, model.state_dict()))
    return model


def layers() -> nn.Module:
    """Layers as the factory's."""
    model = nn.Module()
    model.first, model.second = nn.Linear(4, 8), nn.Linear(8, 2)
    return model


class Harmful:
    """Unpickling this would leave a trace."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("trace",))
