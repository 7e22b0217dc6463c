"""build as a user meets it: the files, the options, what is replaced and what is left as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parallelize.backends.tensorrt.sidecar import read_sidecar
from passes.errors import ParallelizeError
from tests.parallelize.cli.commands import run
from tests.parallelize.cli.engines.told import assert_refused, spoken
from tests.parallelize.small_models import pairs


def test_build_writes_an_engine_named_after_the_onnx_and_says_what_it_is(home: Path) -> None:
    told = run("build", "a.onnx")
    assert told.exit_code == 0, told.output
    assert {path.name for path in home.iterdir()} == {"a.onnx", "half.onnx", "a.engine", "a.engine.json"}
    text = spoken(told)
    assert "backend tensorrt-rtx: it builds without a GPU" in text
    assert "inputs: images batchx1x8x8 float32" in text
    assert "images 1x1x8x8 / 1x1x8x8 / 32x1x8x8" in text
    assert "TensorFloat-32 off" in text
    assert "of them wait for each other" in text
    assert "wide products became one kernel each" in text
    assert text.endswith("Written to a.engine and a.engine.json")
    sidecar = read_sidecar(home / "a.engine")
    assert (sidecar.precision, sidecar.plan, dict(sidecar.errors)) == (None, None, {})


def test_every_option_reaches_the_builder_and_the_sidecar(home: Path) -> None:
    (home / "p.json").write_text(pairs("none").to_json())
    shapes = ["--min-shapes", "images:1x1x8x8", "--opt-shapes", "images:4x1x8x8", "--max-shapes", "images:8x1x8x8"]
    building = ["--workspace", "64", "--builder-optimization-level", "2", "--max-aux-streams", "0"]
    told = run(
        *("build", "half.onnx", "-o", "other.engine", "--backend", "tensorrt-rtx", "--precision", "fp16"),
        *(*shapes, *building, "--compute-capability", "8.6", "--compute-capability", "8.9", "--plan", "p.json"),
    )
    assert told.exit_code == 0, told.output
    sidecar = read_sidecar(home / "other.engine")
    assert [str(profile) for profile in sidecar.profiles] == ["images 1x1x8x8 / 4x1x8x8 / 8x1x8x8"]
    assert (sidecar.precision, sidecar.targets) == ("fp16", ("8.6", "8.9"))
    assert (sidecar.flags["workspace_mib"], sidecar.flags["optimization_level"]) == (64, 2)
    assert sidecar.flags["max_aux_streams"] == 0
    assert sidecar.plan == json.loads(pairs("none").to_json())
    assert "it was asked for" in spoken(told)


def test_an_existing_engine_is_replaced_only_by_force(home: Path) -> None:
    (home / "a.engine").write_bytes(b"earlier")
    assert_refused(run("build", "a.onnx"), 2, "a.engine exists.")
    assert (home / "a.engine").read_bytes() == b"earlier"
    assert run("build", "a.onnx", "--force").exit_code == 0
    assert read_sidecar(home / "a.engine").backend == "tensorrt-rtx"


def test_a_file_with_the_name_of_the_sidecar_is_replaced_only_by_force(home: Path) -> None:
    (home / "a.engine.json").write_text("of another tool")
    assert_refused(run("build", "a.onnx"), 2, "a.engine.json exists.")
    assert (home / "a.engine.json").read_text() == "of another tool"
    assert not (home / "a.engine").exists()
    assert run("build", "a.onnx", "--force").exit_code == 0
    assert read_sidecar(home / "a.engine").backend == "tensorrt-rtx"


def test_a_build_that_fails_leaves_the_earlier_engine_and_its_sidecar_as_they_were(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("build", "a.onnx").exit_code == 0
    before = {path.name: path.read_bytes() for path in home.iterdir()}

    def differing(*_: object) -> None:
        raise ParallelizeError("The dtypes differ.", "Report it.")

    monkeypatch.setattr("parallelize.backends.tensorrt.build.check_layers", differing)
    assert_refused(run("build", "a.onnx", "--force"), 2, "The dtypes differ.")
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before
