"""A source is a model with its data; beside one that is whole nothing else is taken."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import pytest
import torch
from torch import nn

from parallelize.models.source import Data, LoadOptions, Source
from passes.errors import ParallelizeError


def test_a_model_and_keywords_become_a_source_and_a_source_stays_itself() -> None:
    model = nn.Identity()
    source = Source.of(model, inputs="data.npz", example=(torch.zeros(1),))
    assert (source.model, source.inputs, source.labels, source.input_specs) == (model, "data.npz", None, ())
    assert Source.of(source) is source
    assert isinstance(source, LoadOptions)


def test_data_beside_a_source_is_refused_by_its_names() -> None:
    with pytest.raises(ParallelizeError) as caught:
        Source.of(Source("net.pt2"), inputs="data.npz", labels="y")
    assert str(caught.value) == "A Source names its data itself, but inputs, labels was given beside it."
    assert caught.value.hint == "Put it into the Source."


def test_every_field_but_the_model_can_be_given_as_a_keyword() -> None:
    assert {field.name for field in fields(Source)} - {"model"} == set(Data.__annotations__)


def test_the_options_are_made_without_torch() -> None:
    code = "import sys, parallelize.models.source as s; s.Source('a'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
