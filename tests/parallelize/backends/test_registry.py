"""A backend that is one file is chosen, told and named wherever backends are."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from parallelize.backends.artefact import parse_artefact
from parallelize.backends.registry import backends, file_kinds, named, registered, takers
from parallelize.backends.runner_options import RunnerOptions
from parallelize.cli.doctor import examine
from parallelize.cli.main import app
from parallelize.measuring.by_level import stage
from passes.errors import ParallelizeError
from tests.parallelize.backends.toy import NUMBER, TOY

ROOT = Path(__file__).parents[3]
HELP = """
from parallelize.backends.registry import registered
from tests.parallelize.backends.toy import TOY
with registered(TOY):
    from parallelize.cli.main import app
    app(["bench", "--help"])
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.toy").write_text("2.0")
    (tmp_path / "three.toy").write_text("3.0")
    with registered(TOY):
        yield tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_names_are_told_apart() -> None:
    assert len({backend.name for backend in backends()}) == len(backends())
    with pytest.raises(ValueError, match="There is a backend 'torch' already"), registered(replace(TOY, name="torch")):
        pass


def test_it_is_known_for_as_long_as_it_is_registered() -> None:
    with registered(TOY):
        assert (named("toy"), takers(NUMBER)) == (TOY, (TOY,))
        assert NUMBER in file_kinds()
    assert named("toy") is None
    assert NUMBER not in file_kinds()


def test_a_file_of_its_suffix_is_its_own(home: Path) -> None:
    for spelled in ("two.toy", "two.toy@toy"):
        assert (parse_artefact(spelled).kind, parse_artefact(spelled).backend) == (NUMBER, TOY)


def test_what_it_does_not_run_is_refused_and_named(home: Path) -> None:
    with pytest.raises(ParallelizeError, match=r"torch does not run two\.toy@torch, which is a number") as refused:
        parse_artefact("two.toy@torch")
    assert refused.value.hint == "Its runners are toy."
    with pytest.raises(ParallelizeError, match="There is no runner 'jax'") as refused:
        parse_artefact("two.toy@jax")
    assert refused.value.hint.endswith("tensorrt-rtx, toy.")


def test_its_files_are_compared(home: Path) -> None:
    told = run("compare", "two.toy", "three.toy", "--json", "-")
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["reference"]["runner"] == "toy"
    told = run("compare", "two.toy", "three.toy", "--atol", "1e-3")
    assert told.exit_code == 1
    assert "'y' of three.toy is outside of atol 0.001" in told.output


def test_its_files_are_timed(home: Path) -> None:
    told = run("bench", "two.toy", "three.toy@toy", "--duration", "0", "--warm-up", "0", "--json", "-")
    assert told.exit_code == 0, told.output
    assert [network["runner"] for network in json.loads(told.stdout)["networks"]] == ["toy", "toy"]


def test_what_it_lacks_is_told(home: Path) -> None:
    with registered(replace(TOY, name="toy-abacus", here=False)):
        told = run("bench", "two.toy@toy-abacus")
    assert told.exit_code == 3
    assert "There are no fingers here." in told.output


def test_its_values_inside_are_not_read(home: Path) -> None:
    with pytest.raises(ParallelizeError, match=r"two\.toy is a number: the values inside cannot be read"):
        stage(parse_artefact("two.toy"), RunnerOptions())


def test_doctor_tells_of_it(home: Path) -> None:
    (finding,) = [finding for finding in examine() if finding.part == "Toy"]
    assert (finding.works, finding.found) == (True, "1.0, counts on fingers")


def test_help_names_it_and_its_files() -> None:
    ended = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=False, cwd=ROOT)
    told = " ".join(ended.stdout.replace("│", " ").split())
    assert ended.returncode == 0, ended.stderr
    assert "a .toy" in told
    assert "tensorrt-rtx or toy" in told
