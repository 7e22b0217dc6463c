"""The passes by name."""

from __future__ import annotations

import dataclasses
import re

import pytest

from passes.registry import PASSES
from passes.runner import Pass


def test_passes_are_listed_in_the_order_in_which_they_run() -> None:
    assert list(PASSES) == [
        "widen-precision",
        "normalize-synonyms",
        "remove-identities",
        "merge-pieces",
        "normalize-adds",
        "fold-constants",
        "drop-empty-masks",
        "normalize-linears",
        "fold-batch-norm",
        "merge-views",
        "merge-duplicates",
        "apply-plan",
        "fuse-width",
        "move-views",
        "cast-precision",
    ]


@pytest.mark.parametrize(("name", "step"), PASSES.items())
def test_a_pass_is_a_frozen_dataclass_with_a_kebab_case_name_and_a_summary(name: str, step: type[Pass]) -> None:
    assert step.name == name
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name)
    assert dataclasses.is_dataclass(step)
    assert step.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert re.fullmatch(r"[A-Z].*\.", step.summary())


def test_only_a_plan_and_a_cast_may_change_the_numbers() -> None:
    assert [name for name, step in PASSES.items() if not step.exact] == [
        "widen-precision",
        "apply-plan",
        "cast-precision",
    ]
