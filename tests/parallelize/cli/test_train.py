"""The options of `train` are those of its dataclasses."""

from __future__ import annotations

from dataclasses import fields

from paraformer.training.options import TrainingOptions
from tests.parallelize.cli.commands import run


def test_every_field_that_is_offered_is_an_option() -> None:
    told = run("train", "--help").stdout
    names = [part.name for part in fields(TrainingOptions) if "option" in part.metadata]
    assert names != []
    assert [name for name in names if f"--{name.replace('_', '-')} " not in told] == []
    assert "--clip" not in told
