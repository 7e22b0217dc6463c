"""The kinds of models: each config is of one, and what is built from it is its model."""

from __future__ import annotations

import pytest

from paraformer.config import ParaFormerConfig
from paraformer.model import KINDS, build, kind_of
from tests.paraformer.models import tokens, vision


@pytest.mark.parametrize(("config", "kind"), [(vision(2), "vision"), (tokens(2), "tokens")])
def test_a_config_is_of_one_kind_and_builds_the_model_of_it(config: ParaFormerConfig, kind: str) -> None:
    assert kind_of(config) == kind
    model = build(config)
    assert model.config is config
    assert type(model) is KINDS[kind].model
