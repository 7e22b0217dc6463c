"""The command line as a user meets it: exit codes, one sentence and one hint, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from paraformer.checkpoint import Checkpoint, save
from paraformer.model import VisionParaFormer
from parallelize.cli.main import app
from tests.parallelize.small_models import SMALL

ROOT = Path(__file__).resolve().parents[3]
FACTORIES = """
from torch import nn


class Residual(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.terms = nn.ModuleList(nn.Sequential(nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, width)) for _ in range(4))

    def forward(self, x):
        for term in self.terms:
            x = x + term(x)
        return x


def residual():
    return Residual()


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x).relu()
"""
CONVERT = ("convert", "model.pt", "--inputs", "data.npz", "--depth", "2", "--rounds", "1", "-o", "out")
HEAL = ("heal", "model.pt", "--plan", "p.json", "--inputs", "data.npz", "-o", "out", "--rounds", "1", "--steps", "8")
PLAN = """{"format": "parallelize-plan/1", "stacks": [{"terms": 8, "refit": "affine", "levels": [
  [[0], [2]], [[1], [3]], [[4], [6]], [[5], [7]]]}]}"""
FAST = (*CONVERT, "--refit", "none")


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    return Checkpoint(SMALL, VisionParaFormer(SMALL).state_dict(), {})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Checkpoint) -> Path:
    """A working directory with a checkpoint, factories and data that fit both."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "model.pt", checkpoint)
    (tmp_path / "factories.py").write_text(FACTORIES)
    numbers = np.random.default_rng(0)
    pixels = numbers.integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=pixels, labels=numbers.integers(0, 10, 40))
    np.savez(tmp_path / "rows.npz", x=numbers.standard_normal((40, 4)).astype("f4"))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def replaced(old: str, new: str) -> tuple[str, ...]:
    return tuple(new if word == old else word for word in CONVERT)


def python(*code: str, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *code], env=environment, text=True, capture_output=True, check=False, **options
    )


COMMANDS = (
    "convert",
    "plan",
    "heal",
    "build",
    "doctor",
    "inspect",
    "draw",
    "passes",
    "train",
    "compare",
    "bench",
)
HEAVY = {
    "torch",
    "onnx",
    "onnxruntime",
    "numpy",
    "matplotlib",
    "networkx",
    "tensorrt",
    "tensorrt_rtx",
    "transformers",
}


def test_the_help_of_every_command_is_looked_at() -> None:
    assert set(COMMANDS) == set(typer.main.get_group(app).commands)


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_imports_no_heavy_library(command: tuple[str, ...]) -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from parallelize.cli.main import app;"
        f"assert CliRunner().invoke(app, {[*command, '--help']!r}).exit_code == 0;"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    assert python("-c", code).stdout == "[]\n"


def test_the_module_runs_as_a_program() -> None:
    told = python("-m", "parallelize", "--version")
    assert (told.returncode, told.stdout) == (0, "parallelize 0.1.0\n")


def test_convert_prints_the_table_and_writes_everything(home: Path) -> None:
    told = run(*CONVERT, "--labels", "labels")
    assert told.exit_code == 0, told.output
    names = (
        "serial",
        "rewrite, as is",
        "rewrite, unfused",
        "rewrite, refitted",
        "deletion, as is",
        "deletion, refitted",
    )
    assert all(name in told.stdout for name in names)
    assert all(
        heading in told.stdout for heading in ("GEMMs", "meters", "top-1", "95 %", "KL", "median", "p90", "speed")
    )
    written = {path.name for path in (home / "out").iterdir()}
    assert written == {
        "model.pt2",
        "model.onnx",
        "plan.json",
        "report.json",
        "report.html",
        "before.svg",
        "after.svg",
    }
    assert max(map(len, told.stdout.splitlines())) <= 100
    assert "…" not in told.stdout


def test_the_help_names_every_metric() -> None:
    from parallelize.metrics import known_metrics

    told = " ".join(run("convert", "--help").stdout.replace("│", " ").split())
    assert all(f" {name}" in told for name in known_metrics())


def _truncate(home: Path) -> None:
    whole = (home / "model.pt").read_bytes()
    (home / "model.pt").write_bytes(whole[: len(whole) // 2])


def _pickle(home: Path) -> None:
    torch.save(VisionParaFormer(SMALL), home / "model.pt")


def _misfit(home: Path) -> None:
    torch.save({"other.weight": torch.zeros(2)}, home / "weights.pt")


def _data(**arrays: object) -> Callable[[Path], None]:
    def write(home: Path) -> None:
        np.savez(home / "data.npz", **arrays)

    return write


def _existing(home: Path) -> None:
    (home / "out").mkdir()
    (home / "out" / "report.json").write_text("{}")


def _foreign(home: Path) -> None:
    (home / "out").mkdir()
    (home / "out" / "thesis.tex").write_text("years of work")


def _nothing(home: Path) -> None:
    pass


NAN = np.full((40, 1, 8, 8), np.nan, np.float32)
FACTORY = ("convert", "factories.py:residual", "--inputs", "rows.npz", "-o", "out")
BAD = {
    "missing file": (_nothing, replaced("model.pt", "gone.pt"), 2, "gone.pt"),
    "truncated checkpoint": (_truncate, CONVERT, 2, "model.pt"),
    "pickled module": (_pickle, CONVERT, 2, "--allow-pickle"),
    "misfit weights": (_misfit, (*FACTORY, "--weights", "weights.pt"), 2, "weights.pt"),
    "wrong shape": (_data(images=np.zeros((40, 1, 9, 9))), CONVERT, 2, "40x1x9x9"),
    "no such array": (_data(pictures=np.zeros((40, 1, 8, 8))), CONVERT, 2, "images"),
    "NaN": (_data(images=NAN), CONVERT, 2, "NaN"),
    "too few samples": (_data(images=np.zeros((5, 1, 8, 8))), CONVERT, 2, "5 samples"),
    "no labels of that name": (_nothing, (*CONVERT, "--labels", "classes"), 2, "classes"),
    "no stack": (_nothing, ("convert", "factories.py:Plain", "--inputs", "rows.npz", "-o", "out"), 2, "residual stack"),
    "no such factory": (_nothing, ("convert", "factories.py:other", "-o", "out"), 2, "other"),
    "data that is no archive": (lambda home: (home / "data.npz").write_text("no"), CONVERT, 2, "data.npz"),
    "plan and depth": (lambda home: (home / "p.json").write_text("{}"), (*CONVERT, "--plan", "p.json"), 2, "plan"),
    "plan that is no JSON": (
        lambda home: (home / "p.json").write_text("{"),
        ("convert", "model.pt", "--inputs", "data.npz", "--plan", "p.json", "-o", "out"),
        2,
        "plan",
    ),
    "top-1 without labels": (_nothing, (*CONVERT, "--metric", "top1-drop"), 2, "--labels"),
    "metric of no name": (_nothing, (*CONVERT, "--metric", "bleu"), 2, "perplexity"),
    "metric that raises": (
        lambda home: (home / "mine.py").write_text("def f(outputs, teacher, batch):\n    return 1 / 0\n"),
        (*CONVERT, "--metric", "mine.py:f"),
        2,
        "ZeroDivisionError",
    ),
    "percentage of nats": (
        _nothing,
        ("convert", "model.pt", "--inputs", "data.npz", "--max-error", "1%", "-o", "out"),
        2,
        "absolute value",
    ),
    "negative budget": (
        _nothing,
        ("convert", "model.pt", "--inputs", "data.npz", "--max-error=-1", "-o", "out"),
        2,
        "-1",
    ),
    "mask of no name": (_nothing, (*CONVERT, "--mask", "padding"), 2, "padding"),
    "budget out of reach": (
        _nothing,
        ("convert", "model.pt", "--inputs", "data.npz", "--max-error", "0", "-o", "out"),
        1,
        "budget",
    ),
    "output below a file": (_nothing, replaced("out", "data.npz/out"), 3, "out"),
    "plan to heal by that does not fit": (
        lambda home: (home / "p.json").write_text(PLAN.replace('"terms": 8', '"terms": 9')),
        HEAL,
        2,
        "9 terms",
    ),
    "healing without data": (
        lambda home: (home / "p.json").write_text(PLAN),
        ("heal", "model.pt", "--plan", "p.json", "-o", "out"),
        2,
        "Healing needs data",
    ),
    "healing for steps and epochs": (
        lambda home: (home / "p.json").write_text(PLAN),
        (*HEAL, "--epochs", "1"),
        2,
        "steps and epochs",
    ),
    "healing on a GPU that is not there": (
        lambda home: (home / "p.json").write_text(PLAN),
        (*HEAL, "--device", "cuda:77"),
        3,
        "cuda:77",
    ),
    "output is a file": (_nothing, replaced("out", "data.npz"), 2, "data.npz"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_sentence_and_one_hint(home: Path, case: str) -> None:
    prepare, arguments, code, word = BAD[case]
    prepare(home)
    before = set(home.iterdir())
    told = run(*arguments)
    assert told.exit_code == code, told.output
    lines = [line for line in told.stderr.splitlines() if line.startswith(("error: ", "hint:  "))]
    assert [line[:7] for line in lines] == ["error: ", "hint:  "]
    assert word in " ".join(lines)
    assert "Traceback" not in told.output
    assert {path for path in home.iterdir() if path.suffix != ".pyc" and path.name != "__pycache__"} <= before


def test_an_existing_output_is_replaced_only_by_force(home: Path) -> None:
    _existing(home)
    told = run(*FAST)
    assert (told.exit_code, "--force" in told.stderr) == (2, True)
    assert [path.name for path in (home / "out").iterdir()] == ["report.json"]
    assert run(*FAST, "--force").exit_code == 0
    assert json.loads((home / "out" / "report.json").read_text())["schema"] == "parallelize-report/1"


def test_force_does_not_replace_what_no_conversion_made(home: Path) -> None:
    _foreign(home)
    told = run(*CONVERT, "--force")
    assert told.exit_code == 2
    assert "was not made by a conversion" in told.stderr
    assert (home / "out" / "thesis.tex").read_text() == "years of work"


def test_a_failed_run_leaves_the_earlier_output_whole(home: Path) -> None:
    assert run(*FAST).exit_code == 0
    before = {path.name: path.read_bytes() for path in (home / "out").iterdir()}
    _truncate(home)
    assert run(*FAST, "--force").exit_code == 2
    assert {path.name: path.read_bytes() for path in (home / "out").iterdir()} == before


@pytest.mark.parametrize(
    ("stage", "end"),
    [
        pytest.param("capturing the model", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("judging", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("writing and checking ONNX", signal.SIGKILL, marks=pytest.mark.slow),
        ("writing the report", signal.SIGKILL),
    ],
)
def test_a_killed_run_leaves_the_earlier_output_whole(home: Path, stage: str, end: signal.Signals) -> None:
    _existing(home)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job hands down that it is ignored
    running = subprocess.Popen(
        [sys.executable, "-m", "parallelize", *FAST, "--force"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert running.stderr is not None
    for line in running.stderr:
        if line.strip() == stage:
            break
    running.send_signal(end)
    assert running.wait(60) != 0
    assert {path.name: path.read_text() for path in (home / "out").iterdir()} == {"report.json": "{}"}


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
    running = subprocess.Popen(
        [sys.executable, "-c", code, *HEAL, "--evaluate-every", "4"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
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


def test_debug_shows_the_traceback(home: Path) -> None:
    told = python("-m", "parallelize", "inspect", "gone.pt", "--debug", cwd=home)
    assert told.returncode == 2
    assert "Traceback" in told.stderr


def test_a_bug_is_told_apart(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parallelize.models.prepare.load_program", lambda *_: 1 // 0)
    told = run("inspect", "model.pt")
    assert told.exit_code == 4
    assert "ZeroDivisionError" in told.stderr
    assert "bug" in told.stderr


def test_inspect_lists_stacks_and_terms(home: Path) -> None:
    told = run("inspect", "model.pt")
    assert told.exit_code == 0
    assert "stack 0 'blocks': 8 terms in 4 blocks, state batch x 4 x 16" in told.stdout
    content = json.loads(run("inspect", "model.pt", "--json").stdout)
    assert [term["kind"] for term in content["stacks"][0]["terms"]] == ["attention", "mlp"] * 4
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
    levels = [[[0], [2], [4], [6]], [[1], [3], [5], [7]]]
    plan = {"format": "parallelize-plan/1", "stacks": [{"terms": 8, "levels": levels}]}
    (home / "plan.json").write_text(json.dumps(plan))
    for name in ("serial.svg", "serial.dot", "serial.graphml", "serial.json"):
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


def test_train_without_the_data_names_the_package_to_install(home: Path) -> None:
    told = run("train", "-o", "new.pt", "--data", "nowhere")
    assert told.exit_code == 2
    assert "apt-get install dataset-fashion-mnist" in told.stderr
    assert not (home / "new.pt").exists()
