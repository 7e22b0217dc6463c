"""A conversion that cannot be done ends in one sentence, before the search wherever that is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import parallelize
from parallelize.conversion.convert import convert
from parallelize.conversion.options import ConvertOptions
from parallelize.healing.options import HealOptions
from passes.errors import ParallelizeError
from tests.parallelize.conversion.conversions import SeenError, two_blocks


def test_healing_needs_data(tmp_path: Path) -> None:
    with pytest.raises(ParallelizeError, match="Healing needs data"):
        convert(two_blocks(), tmp_path / "out", options=ConvertOptions(rounds=1, heal=HealOptions()))


def test_a_source_and_data_beside_it_are_refused(tmp_path: Path) -> None:
    source = parallelize.Source(nn.Linear(2, 2).eval(), example=(torch.zeros(2, 2),))
    with pytest.raises(ParallelizeError, match="names its data itself, but inputs, mask was given"):
        convert(source, tmp_path / "out", inputs="x.npz", mask="m")


def test_only_one_goal_can_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ParallelizeError, match="Only one of a plan, a depth and a maximal error"):
        convert("gone.pt", tmp_path / "out", options=ConvertOptions(depth=1, max_error=0.1))


def test_a_module_needs_an_example(tmp_path: Path) -> None:
    with pytest.raises(ParallelizeError, match="example"):
        convert(nn.Linear(2, 2).eval(), tmp_path / "out")


class Bessel(nn.Module):
    """Residual terms with an operator that has no ONNX form."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + torch.special.bessel_j0(layer(x))
        return x


@pytest.mark.parametrize("job", ["convert", "explore"])
def test_what_has_no_onnx_form_is_told_before_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    def search(*_: Any, **__: Any) -> None:
        raise SeenError

    monkeypatch.setattr("parallelize.conversion.making.chosen_schedule", search)
    monkeypatch.setattr("parallelize.exploring.explore._measure", search)
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).standard_normal((20, 4)).astype("f4"))
    model, example = Bessel().eval(), (torch.zeros(2, 4),)
    source = parallelize.Source(model, tmp_path / "x.npz", example=example)
    jobs = {
        "convert": lambda: convert(source, tmp_path / "out"),
        "explore": lambda: parallelize.explore(source, tmp_path / "out"),
    }
    with pytest.raises(ParallelizeError, match=r"The operator aten\.special_bessel_j0 .*has no ONNX form"):
        jobs[job]()
