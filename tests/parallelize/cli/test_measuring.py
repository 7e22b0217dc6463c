"""compare and bench as a user meets them: exit codes, one sentence and one hint, files whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from parallelize.cli.main import app
from parallelize.models.capture import export
from tests.parallelize.small_models import images, vision
from tests.parallelize.written import write

QUICK = ("--warm-up", "0", "--duration", "0.01", "--device", "cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, another one, ONNX and engine of the first, what is neither, and data."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("a.pt2", "a.onnx", "a.engine"):
        write(folder / name, 2)
    torch.export.save(export(vision(2, seed=1)), folder / "b.pt2")
    (folder / "bad.onnx").write_bytes(b"no model")
    (folder / "foreign.engine").write_bytes(b"")
    np.savez(folder / "data.npz", images=images(40, 0).arrays["images"].numpy())
    return folder


@pytest.fixture
def home(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with these files."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_compare_prints_statistics_and_says_that_inputs_are_random(home: Path) -> None:
    told = run("compare", "a.pt2", "a.onnx", "b.pt2")
    assert told.exit_code == 0, told.output
    assert all(word in told.stdout for word in ("median", "0.99", "cosine", "SNR", "atol", "rtol", "random numbers"))
    assert "…" not in told.stdout
    assert "random" not in run("compare", "a.pt2", "a.onnx", "--inputs", "data.npz").stdout


def test_compare_fails_outside_of_the_tolerance_and_passes_with_the_one_it_proposes(home: Path) -> None:
    failed = run("compare", "a.pt2", "b.pt2", "--atol", "1e-6", "--json", "c.json")
    assert failed.exit_code == 1
    assert "error: The output 'output' of b.pt2 is outside of atol 1e-06, rtol 0" in failed.stderr
    assert "hint:" in failed.stderr
    content = json.loads((home / "c.json").read_text())
    assert not content["passed"]
    needed = str(content["networks"][0]["outputs"][0]["needed_atol"])
    assert run("compare", "a.pt2", "b.pt2", "--atol", needed).exit_code == 0


@pytest.mark.slow
def test_compare_by_level_names_the_first(home: Path) -> None:
    told = run("compare", "a.pt2", "b.pt2", "--by-level")
    assert told.exit_code == 0, told.output
    assert "parts from the reference at" in told.stdout.replace("\n", " ")


@pytest.mark.parametrize("command", ["compare", "bench"])
def test_json_on_the_terminal_is_nothing_but_json(home: Path, command: str) -> None:
    told = run(command, "a.pt2", "a.onnx", "--json", "-", *(QUICK if command == "bench" else ()))
    assert json.loads(told.stdout)["schema"] == f"parallelize-{command}/1"


def test_bench_prints_a_table_and_writes_json_and_chart(home: Path) -> None:
    told = run("bench", "a.pt2", "a.onnx", "--json", "b.json", "-o", "chart.svg", "--percentile", "50,95", *QUICK)
    assert told.exit_code == 0, told.output
    assert all(word in told.stdout for word in ("p50", "p95", "1.00x", "a.onnx"))
    assert {"b.json", "chart.svg"} <= {path.name for path in home.iterdir()}
    assert not [path for path in home.iterdir() if path.name.endswith(".tmp")]


BAD = {
    "missing file": (("compare", "a.pt2", "gone.onnx"), 2, "gone.onnx does not exist"),
    "missing program": (("compare", "a.pt2", "gone.pt2"), 2, "gone.pt2"),
    "broken ONNX": (("compare", "a.pt2", "bad.onnx"), 2, "ONNX Runtime refuses bad.onnx"),
    "unknown runner": (("bench", "a.pt2@jax"), 2, "There is no runner 'jax'"),
    "runner of another kind": (("bench", "a.onnx@torch"), 2, "torch does not run"),
    "one network": (("compare", "a.pt2"), 2, "two networks"),
    "percentiles": (("bench", "a.pt2", "--percentile", "50,x"), 2, "'50,x'"),
    "chart of another kind": (("bench", "a.pt2", "-o", "chart.png"), 2, "chart.png is no .svg"),
    "JSON in no directory": (("bench", "a.pt2", "--json", "none/b.json", *QUICK), 3, "none/b.json cannot be written"),
    "rivals without a plan": (("bench", "a.pt2", "--rivals"), 2, "plan.json"),
}
WITHOUT_GPU = {
    "engine": (("compare", "a.pt2", "a.engine"), 3, "runs on a GPU, and there is none here"),
    "engine alone": (("bench", "a.engine"), 3, "Nothing could be timed"),
    "ONNX on a GPU": (("compare", "a.pt2", "a.onnx@onnxruntime-cuda"), 3, "GPU"),
    "torch on a GPU": (("compare", "a.pt2", "a.onnx", "--device", "cuda"), 3, "There is no GPU cuda"),
}


PLACES = {
    "compare --json in no folder": (("compare", "a.pt2", "a.onnx", "--json", "none/c.json"), 3, "no folder none"),
    "compare --json on a folder": (("compare", "a.pt2", "a.onnx", "--json", "folder"), 2, "it is a directory"),
    "bench --json in no folder": (("bench", "a.pt2", "--json", "none/b.json"), 3, "no folder none"),
    "bench --json on a folder": (("bench", "a.pt2", "--json", "folder"), 2, "it is a directory"),
    "chart in no folder": (("bench", "a.pt2", "-o", "none/b.svg"), 3, "no folder none"),
}


@pytest.mark.parametrize("case", PLACES)
def test_a_place_that_cannot_be_written_to_is_refused_before_the_run(
    home: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def running(*_: object, **__: object) -> None:
        pytest.fail("it was run")

    for module in ("compare.compare", "bench.bench"):
        monkeypatch.setattr(f"parallelize.measuring.{module}", running)
    (home / "folder").mkdir()
    _refused(*PLACES[case])


@pytest.mark.parametrize("command", ["compare", "bench"])
def test_another_gpu_than_the_first_is_refused_with_the_way_to_choose_it(home: Path, command: str) -> None:
    _refused((command, "a.pt2", "a.onnx", "--device", "cuda:1"), 2, "on the first GPU, not on 'cuda:1'")
    assert "CUDA_VISIBLE_DEVICES" in run(command, "a.pt2", "a.onnx", "--device", "cuda:1").stderr


@pytest.mark.parametrize("command", ["compare", "bench"])
def test_a_device_that_torch_does_not_run_on_is_told_without_words_of_healing(home: Path, command: str) -> None:
    _refused((command, "a.pt2", "a.pt2", "--device", "mps"), 2, "'mps' is neither the CPU nor a CUDA GPU.")


@pytest.mark.parametrize("command", ["compare", "bench"])
def test_names_of_files_are_printed_as_they_are(home: Path, command: str) -> None:
    name = "[/red]:key:a.onnx"
    (home / "[").mkdir()
    (home / name).write_bytes((home / "a.onnx").read_bytes())
    told = run(command, name, name, *(QUICK if command == "bench" else ()))
    assert told.exit_code == 0, told.output
    assert name in told.stdout


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_one_sentence_and_one_hint(home: Path, case: str) -> None:
    arguments, code, sentence = BAD[case]
    _refused(arguments, code, sentence)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
@pytest.mark.parametrize("case", WITHOUT_GPU)
def test_what_the_machine_lacks_ends_in_3(home: Path, case: str) -> None:
    arguments, code, sentence = WITHOUT_GPU[case]
    _refused(arguments, code, sentence)


def _refused(arguments: tuple[str, ...], code: int, sentence: str) -> None:
    told = run(*arguments)
    assert told.exit_code == code, told.output
    errors = [line for line in told.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert sentence in errors[0]
    assert "\nhint: " in told.stderr
