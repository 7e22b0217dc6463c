"""Configs: plain values, refused by name and value where they do not fit each other."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from paraformer.config import TokenConfig, VisionConfig


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"image_size": 28, "patch_size": 5}, "patch_size 5 does not divide image_size 28"),
        ({"width": 64, "heads": 5}, "heads 5 does not divide width 64"),
        ({"mode": "parallel"}, "mode must be 'serial' or 'para-former', not 'parallel'"),
        ({"depth": 12, "branches": 5}, "branches 5 does not divide depth 12"),
        ({"merge": "product"}, "merge must be 'added', 'summed' or 'mean', not 'product'"),
        ({"pooling": "max"}, "pooling must be 'mean' or 'cls', not 'max'"),
        ({"branches": 0}, "branches 0 does not divide depth 12"),
        ({"branches": -1}, "branches -1 does not divide depth 12"),
    ],
)
def test_sizes_that_do_not_fit_each_other_are_refused_by_name_and_value(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        VisionConfig(**sizes)


@pytest.mark.parametrize("sizes", [{"heads": 0}, {"patch_size": 0}])
def test_a_size_of_zero_is_refused(sizes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"(heads|patch_size).* 0"):
        VisionConfig(**sizes)


def test_a_config_becomes_plain_values_and_back() -> None:
    config = replace(VisionConfig(), mode="para-former", branches=2)
    assert config.to_dict() == asdict(config)
    assert all(isinstance(value, int | float | str) for value in config.to_dict().values())
    assert VisionConfig(**config.to_dict()) == config


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"vocabulary": 0}, "vocabulary must be a whole number from 1, not 0"),
        ({"length": 2.5}, "length must be a whole number from 1, not 2.5"),
        ({"task": "translate"}, "task must be 'classify' or 'next-token', not 'translate'"),
        ({"width": 10}, "heads 4 does not divide width 10"),
    ],
)
def test_sizes_of_a_token_model_are_refused_likewise(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        TokenConfig(**sizes)


def test_a_serial_network_has_one_branch_whatever_its_number_of_branches_is() -> None:
    config = VisionConfig(depth=12, branches=4)
    assert (config.branch_count, config.branch_depth) == (1, 12)
    parallel = replace(config, mode="para-former")
    assert (parallel.branch_count, parallel.branch_depth) == (4, 3)


def test_a_config_tells_the_shape_of_a_sample() -> None:
    assert VisionConfig(image_size=8, channels=3).input_shape == (3, 8, 8)
    assert TokenConfig(length=9).input_shape == (9,)


def test_only_a_classifier_has_a_learned_token_and_only_what_says_what_is_next_is_causal() -> None:
    assert TokenConfig(pooling="cls").has_cls
    assert not TokenConfig(pooling="cls").causal
    following = TokenConfig(pooling="cls", task="next-token")
    assert following.causal
    assert not following.has_cls
