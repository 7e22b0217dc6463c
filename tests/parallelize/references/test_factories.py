"""Factories are found in modules and files, and what they raise becomes a sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.parallelize.references.cases import load, refusal


@pytest.mark.parametrize(
    "reference", ["shop:small", "shop.py:small", "shop:Home.make", "shop:ready", "./shop.py:Model"]
)
def test_factories_classes_and_modules_are_found_in_modules_and_files(home: Path, reference: str) -> None:
    path = list(sys.path)
    program = load(reference, "batchx4")
    assert program.inputs[0].shape == ("batch", 4)
    assert not [node for node in program.module.graph.nodes if "dropout" in node.name and node.args[2]]
    assert sys.path == path


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
