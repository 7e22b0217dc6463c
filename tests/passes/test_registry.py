"""The passes by name."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import pytest

import passes.clean
from passes.errors import PassError
from passes.registry import CLEANING, PASSES, found_passes
from passes.runner import Pass

ROOT = Path(__file__).resolve().parents[2]
TOY = """
from dataclasses import dataclass
from typing import ClassVar
from passes.runner import Pass, PassResult, Stage

@dataclass(frozen=True)
class Toy(Pass):
    \"\"\"Change nothing.\"\"\"

    name: ClassVar[str] = "{name}"
    exact: ClassVar[bool] = True
    stage: ClassVar[Stage] = "{stage}"
    after: ClassVar[tuple[str, ...]] = ("{after}",)

    def apply(self, module):
        return PassResult()
"""


def test_passes_are_listed_in_the_order_in_which_they_run() -> None:
    assert list(PASSES) == [
        "widen-precision",
        "keep-state-shape",
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
        "average-branches",
        "keep-prefix",
        "map-blocks",
        "prefix-outputs",
        "spread-branches",
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


def test_only_schedules_and_casts_may_change_the_numbers() -> None:
    assert [name for name, step in PASSES.items() if not step.exact] == [
        "widen-precision",
        "apply-plan",
        "average-branches",
        "keep-prefix",
        "map-blocks",
        "prefix-outputs",
        "cast-precision",
    ]


def _with_toy(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, stage: str, after: str) -> list[str]:
    """The names of all passes where one more file lies in a room."""
    (folder / "toy_pass.py").write_text(TOY.format(name=name, stage=stage, after=after))
    monkeypatch.setattr(passes.clean, "__path__", [*passes.clean.__path__, str(folder)])
    monkeypatch.delitem(sys.modules, "passes.clean.toy_pass", raising=False)
    try:
        return list(found_passes())
    finally:
        sys.modules.pop("passes.clean.toy_pass", None)


def test_a_file_in_a_room_is_a_pass_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = _with_toy(tmp_path, monkeypatch, "toy", "clean", "merge-duplicates")
    assert names[names.index("toy") - 1] == "merge-duplicates"
    assert names.index("toy") < names.index("apply-plan")
    assert [name for name in names if name != "toy"] == list(PASSES)


@pytest.mark.parametrize(
    ("name", "stage", "after", "message"),
    [
        ("merge-duplicates", "clean", "merge-views", "Two passes are called 'merge-duplicates'."),
        (
            "toy",
            "clean",
            "cut",
            "The pass 'toy' comes after 'cut', which is no pass of the stage 'clean'.",
        ),
        ("toy", "polish", "fuse-width", "The pass 'toy' runs in the stage 'polish', which there is not."),
        ("toy", "clean", "toy", "The passes of the stage 'clean' name one another in a circle."),
    ],
)
def test_a_pass_without_a_place_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, stage: str, after: str, message: str
) -> None:
    with pytest.raises(PassError) as caught:
        _with_toy(tmp_path, monkeypatch, name, stage, after)
    assert str(caught.value) == message
    assert caught.value.hint


def test_the_documentation_lists_the_passes_as_they_are() -> None:
    rows = [
        f"| `{step.__module__.removeprefix('passes.').replace('.', '/')}.py` | `{name}` | {step.summary()} |"
        for name, step in PASSES.items()
    ]
    table = "\n".join(["| file in `passes/` | pass | what it does |", "|---|---|---|", *rows])
    assert f"\n\n{table}\n\n" in (ROOT / "docs" / "writing-a-pass.md").read_text(), table


def test_the_clean_up_has_all_passes_of_its_stage() -> None:
    assert [step.name for step in CLEANING] == [name for name, step in PASSES.items() if step.stage == "clean"]
