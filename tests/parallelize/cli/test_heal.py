"""heal as a user meets it: the healed network is written, and a healing that was killed goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.parallelize.cli.commands import HEAL, PLAN, run, started


def test_heal_writes_the_healed_network_and_keeps_no_state(home: Path) -> None:
    (home / "p.json").write_text(PLAN)
    options = "--steps 40 --learning-rate 0.01 --batch-size 8 --evaluate-every 10 --train lora --rank 2 --seed 5"
    told = run(*HEAL, *options.split())
    assert told.exit_code == 0, told.output
    assert "rewrite, healed" in told.stdout
    assert "healing: step 10 of 40" in told.stderr
    healing = json.loads((home / "out" / "report.json").read_text())["healing"]
    assert {"steps": 40, "batch_size": 8, "train": "lora", "rank": 2, "seed": 5}.items() <= healing["options"].items()
    assert not (home / "out.resume").exists()


@pytest.mark.slow
def test_a_healing_that_was_killed_goes_on(home: Path) -> None:
    (home / "p.json").write_text(PLAN)
    code = "import parallelize.healing.heal as h; h.KEEP_EVERY = 0.0; from parallelize.cli.main import main; main()"
    running = started("-c", code, *HEAL, "--evaluate-every", "4")
    assert running.stderr is not None
    assert any("healing: step 8" in line for line in running.stderr)
    running.kill()
    assert running.wait(60) != 0
    assert (home / "out.resume").exists()
    assert not (home / "out").exists()
    told = run(*HEAL, "--evaluate-every", "4")
    assert told.exit_code == 0, told.output
    assert "healing: step 0" not in told.stderr
    history = json.loads((home / "out" / "report.json").read_text())["healing"]["history"]
    assert [evaluation["step"] for evaluation in history] == [4, 8]
    assert not (home / "out.resume").exists()
