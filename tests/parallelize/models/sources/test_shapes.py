"""Shapes of a module's inputs come from --input, from the data, or from example_inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from parallelize.data import InputSpec
from parallelize.models.sources import LoadOptions, load_program
from tests.parallelize.models.sources.cases import FACTORY, load, refusal


def test_inputs_are_passed_by_name_or_by_place(home: Path) -> None:
    both = load("shop:small", "scale:1@float32", "batchx4")
    assert [(spec.name, spec.shape) for spec in both.inputs] == [("x", ("batch", 4)), ("scale", (1,))]


def test_shapes_come_from_the_data(home: Path) -> None:
    for array, dtype in (
        (np.zeros((5, 4), np.uint8), torch.float32),
        (np.zeros((5, 4), np.float64), torch.float32),
        (np.zeros((5, 4), np.float32), torch.float32),
    ):
        program = load("shop:small", samples={"x": array, "labels": np.zeros(5, int)})
        assert [(s.name, s.shape, s.dtype) for s in program.inputs] == [("x", ("batch", 4), dtype)]
    assert load("shop:small", samples={"": np.zeros((5, 4))}).inputs[0].name == "x"


def test_integers_of_the_data_stay_integers(home: Path) -> None:
    (home / "shop.py").write_text("from torch import nn\ntokens = nn.Embedding(9, 4)\n")
    assert load("shop:tokens", samples={"input": np.zeros((5, 7), np.int64)}).inputs[0].dtype == torch.int64


def test_a_free_dimension_is_tried_at_the_size_of_the_data(home: Path) -> None:
    (home / "shop.py").write_text("from torch import nn\npatches = nn.Conv1d(3, 2, 32, 32)\n")
    program = load("shop:patches", "input:batchx3xlong", samples={"input": np.zeros((1, 3, 64))})
    assert program.inputs[0].shape == ("batch", 3, "long")


def test_example_inputs_are_used_from_the_model_or_from_beside_its_factory(home: Path) -> None:
    assert load("shop:with_example").inputs[0].shape == ("batch", 4)
    (home / "shop.py").write_text(FACTORY + "example_inputs = {'x': torch.zeros(1, 4), 'scale': torch.zeros(1, 2)}\n")
    program = load("shop.py:small")
    assert [(spec.name, spec.shape) for spec in program.inputs] == [("x", ("batch", 4)), ("scale", ("batch", 2))]


def test_unknown_shapes_are_refused_with_the_spelling(home: Path) -> None:
    message, hint = refusal("shop:small")
    assert message == "The shapes of the inputs of shop:small are not known: it reads 'x', 'scale'."
    assert "--input x:batchx3x224x224@float32" in hint
    message, _ = refusal("shop:small", samples={"images": np.zeros((5, 4))})
    assert message.endswith("it reads 'x', 'scale', the data holds 'images'.")


def test_wrong_names_and_shapes_of_inputs_are_refused(home: Path) -> None:
    assert refusal("shop:small", "y:batchx4")[0] == "shop:small has no input 'y': it reads 'x', 'scale'."
    assert refusal("shop:small", "x:1x4", "x:1x4")[0] == "An input of shop:small is given twice."
    message, hint = refusal("shop:small", "batchx5")
    assert message.startswith("shop:small does not run on an input of 3x5@float32: RuntimeError: ")
    assert "--input" in hint


def test_a_fixed_spec_stays_fixed(home: Path) -> None:
    options = LoadOptions(input_specs=(InputSpec(None, (1, 4)),))
    assert load_program("shop:small", options).inputs[0].shape == (1, 4)
