"""The command line as a user meets it: the program, and the commands that look at a model."""

from __future__ import annotations

import json
from pathlib import Path

from tests.parallelize.cli.commands import python, run


def test_the_module_runs_as_a_program() -> None:
    told = python("-m", "parallelize", "--version")
    assert (told.returncode, told.stdout) == (0, "parallelize 0.1.0\n")


def test_inspect_lists_stacks_and_terms(home: Path) -> None:
    told = run("inspect", "model.pt")
    assert told.exit_code == 0
    assert "stack 0 'blocks': 4 terms in 2 blocks, state batch x 4 x 16" in told.stdout
    content = json.loads(run("inspect", "model.pt", "--json").stdout)
    assert [term["kind"] for term in content["stacks"][0]["terms"]] == ["attention", "mlp"] * 2
    assert content["inputs"] == [{"name": "images", "shape": ["batch", 1, 8, 8], "dtype": "float32"}]


def test_inspect_prints_the_name_of_a_model_as_it_is(home: Path) -> None:
    (home / "model.pt").rename(home / "[red]:key:.pt")
    told = run("inspect", "[red]:key:.pt")
    assert told.exit_code == 0, told.output
    assert "[red]:key:.pt" in told.stdout


def test_inspect_says_why_nothing_was_found(home: Path) -> None:
    told = run("inspect", "factories.py:Plain", "--input", "batchx4")
    assert told.exit_code == 0
    assert "No residual stack was found." in told.stdout


def test_draw_writes_the_serial_schedule_and_a_plan(home: Path) -> None:
    levels = [[[0], [2]], [[1], [3]]]
    plan = {"format": "parallelize-plan/1", "stacks": [{"terms": 4, "levels": levels}]}
    (home / "plan.json").write_text(json.dumps(plan))
    for name in ("serial.svg", "serial.graphml"):
        assert run("draw", "model.pt", "-o", name).exit_code == 0
        assert (home / name).stat().st_size > 0
    assert run("draw", "model.pt", "--plan", "plan.json", "-o", "plan.svg").exit_code == 0
    assert (home / "plan.svg").read_text() != (home / "serial.svg").read_text()


def test_a_diagram_of_a_suffix_that_is_not_written_is_refused_before_the_model_is_loaded() -> None:
    told = run("draw", "no_such_model.pt", "-o", "x.png")
    assert told.exit_code == 2
    assert "A diagram cannot be written as 'x.png'." in told.output


def test_passes_are_listed_and_described() -> None:
    listed = run("passes")
    assert listed.exit_code == 0
    assert all(name in listed.stdout for name in ("apply-plan", "fuse-width", "remove-identities"))
    assert "Refused" in run("passes", "fuse-width").stdout
    assert run("passes", "fuse-everything").exit_code == 2


def test_train_without_the_data_names_what_there_may_be(home: Path) -> None:
    told = run("train", "-o", "new.pt", "--data", "nowhere")
    assert told.exit_code == 2
    assert "IDX files" in told.stderr
    assert not (home / "new.pt").exists()
