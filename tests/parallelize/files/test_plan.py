"""A plan is read from its file, or refused by what is wrong with the file or the plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parallelize.files.plan import plan_of, read_plan
from passes.errors import ParallelizeError
from passes.plan import Plan, serial


def test_a_plan_that_was_written_is_read_back(tmp_path: Path) -> None:
    plan = Plan((serial(4),), seed=3)
    (tmp_path / "plan.json").write_text(plan.to_json())
    assert read_plan(tmp_path / "plan.json") == plan


def test_a_plan_is_taken_in_every_form(tmp_path: Path) -> None:
    plan = Plan((serial(4),), seed=3)
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json())
    for given in (plan, path, str(path), tmp_path, json.loads(plan.to_json())):
        assert plan_of(given) == plan


def test_what_cannot_be_read_is_refused_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "absent.json", tmp_path, tmp_path / "bytes.json"):
        with pytest.raises(ParallelizeError) as caught:
            read_plan(path)
        assert str(caught.value).startswith(f"The plan {path} cannot be read: ")
        assert caught.value.hint == "Name a plan.json with --plan."


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"format": "parallelize-plan/9", "stacks": []}'])
def test_what_is_no_plan_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(ParallelizeError, match="plan"):
        read_plan(tmp_path / "plan.json")
