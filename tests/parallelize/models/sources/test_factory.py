"""Factories are found in modules and files, and what they raise becomes a sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.parallelize.models.sources.cases import layers, load, refusal


@pytest.mark.parametrize(
    "reference", ["shop:small", "shop.py:small", "shop:Home.make", "shop:ready", "./shop.py:Model"]
)
def test_factories_classes_and_modules_are_found_in_modules_and_files(home: Path, reference: str) -> None:
    path = list(sys.path)
    program = load(reference, "batchx4")
    assert program.inputs[0].shape == ("batch", 4)
    assert not [node for node in program.module.graph.nodes if "dropout" in node.name and node.args[2]]
    assert sys.path == path


def test_weights_are_loaded_into_what_a_factory_gives(home: Path) -> None:
    torch.save({name: torch.full_like(value, 0.5) for name, value in layers().state_dict().items()}, "w.pt")
    program = load("shop:small", "2x4", weights=Path("w.pt"))
    assert program.module(torch.ones(2, 4)).tolist() == [[10.5, 10.5]] * 2


def test_a_file_elsewhere_finds_the_files_beside_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "other").mkdir()
    monkeypatch.chdir(home / "other")
    assert load(f"{home}/shop.py:small", "batchx4").outputs[0].shape == ("batch", 2)


def test_factories_that_fail_are_refused_with_their_own_words(home: Path) -> None:
    Path("crash.py").write_text("1 / 0\n")
    Path("leave.py").write_text("raise SystemExit(3)\n")
    cases = {
        "shop:broken": "shop:broken raised ValueError: no such size.",
        "shop:text": "shop:text gives a str, not a model.",
        "shop:number": "shop:number gives a int, not a model.",
        "shop:absent": "shop has no 'absent'.",
        "crash:make": "crash cannot be imported (ZeroDivisionError: division by zero).",
        "leave.py:make": "leave.py cannot be imported (SystemExit: 3).",
        "nowhere.at.all:make": "nowhere.at.all cannot be imported (ModuleNotFoundError: No module named 'nowhere').",
    }
    for reference, sentence in cases.items():
        assert refusal(reference, "batchx4")[0] == sentence
    assert "raised TypeError: needs_width() missing 1 required" in refusal("shop:needs_width", "batchx4")[0]


ANY = """
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, **batch):
        y = self.layer(batch["x"])
        return y * batch["scale"] if "scale" in batch else y

class Mixed(Model):
    def forward(self, x, **rest):
        return super().forward(x=x, **rest)
"""


@pytest.mark.parametrize("name", ["Model", "Mixed"])
def test_inputs_may_be_taken_by_any_name(home: Path, name: str) -> None:
    Path("any.py").write_text(ANY)
    assert [spec.name for spec in load(f"any.py:{name}", "x:batchx4").inputs] == ["x"]
    program = load(f"any.py:{name}", "x:batchx4", "scale:batchx1")
    assert [(spec.name, spec.shape) for spec in program.inputs] == [("x", ("batch", 4)), ("scale", ("batch", 1))]
    x = torch.rand(3, 4)
    assert torch.allclose(program.module(x, torch.full((3, 1), 2.0)), 2 * program.module(x, torch.ones(3, 1)))


def test_data_names_the_inputs_of_a_forward_that_takes_any(home: Path) -> None:
    Path("any.py").write_text(ANY)
    samples = {"x": np.zeros((5, 4), "f4"), "scale": np.zeros((5, 1), "f4"), "labels": np.zeros(5, int)}
    assert [spec.name for spec in load("any.py:Model", samples=samples).inputs] == ["x", "scale"]
    message, _ = refusal("any.py:Model")
    assert message == "The shapes of the inputs of any.py:Model are not known: it reads any inputs by name."
