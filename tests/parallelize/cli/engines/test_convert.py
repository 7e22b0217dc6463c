"""convert with an engine: the options that reach it, what is written, what is refused before a model is loaded."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from parallelize.backends.tensorrt.options import BuildOptions
from parallelize.backends.tensorrt.profiles import ShapeOptions
from parallelize.backends.tensorrt.sidecar import read_sidecar
from parallelize.conversion.options import ConvertOptions, EngineOptions
from parallelize.models.capture import export
from passes.errors import ParallelizeError
from tests.parallelize.cli.commands import run
from tests.parallelize.cli.engines.told import assert_refused, spoken
from tests.parallelize.small_models import images, pairs, vision

FOR_AN_ENGINE = (
    *("--backend", "tensorrt-rtx", "--precision", "fp16", "--compute-capability", "8.9"),
    *("--min-shapes", "images:1x1x8x8", "--opt-shapes", "images:2x1x8x8", "--max-shapes", "images:4x1x8x8"),
)


def test_convert_hands_backend_precision_shapes_and_targets_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[EngineOptions] = []

    def converting(*_: object, options: ConvertOptions, **__: object) -> None:
        asked.append(options.engine)
        raise ParallelizeError("Seen.", "That is enough.")

    monkeypatch.setattr("parallelize.conversion.convert.convert", converting)
    assert_refused(run("convert", "model.pt2", "-o", "out", *FOR_AN_ENGINE), 2, "Seen.")
    shapes = ShapeOptions({"images": (1, 1, 8, 8)}, {"images": (2, 1, 8, 8)}, {"images": (4, 1, 8, 8)})
    building = BuildOptions(shapes=shapes, compute_capabilities=("8.9",))
    assert asked == [EngineOptions("tensorrt-rtx", "fp16", building)]


@pytest.mark.slow
def test_convert_writes_the_engine_that_was_asked_for_and_says_so(home: Path) -> None:
    torch.export.save(export(vision()), home / "model.pt2")
    (home / "p.json").write_text(pairs("none").to_json())
    np.savez(home / "data.npz", images=images(40, 0).arrays["images"].numpy())
    wanted = ("--inputs", "data.npz", "--plan", "p.json", "--rounds", "1", "-o", "out", *FOR_AN_ENGINE)
    told = run("convert", "model.pt2", *wanted)
    assert told.exit_code == 0, told.output
    sidecar = read_sidecar(home / "out" / "model.engine")
    assert (sidecar.precision, sidecar.targets) == ("fp16", ("8.9",))
    assert [str(profile) for profile in sidecar.profiles] == ["images 1x1x8x8 / 2x1x8x8 / 4x1x8x8"]
    text = spoken(told)
    assert "Backend tensorrt-rtx: it was asked for." in text
    assert text.index("kernels wait for each other") < text.index("speed")  # the headline, not a note below
    assert "note: Backend" not in text
    assert "model.engine, model.engine.json" in text


CONVERT = ("convert", "gone.pt", "-o", "out")
NEVER = {
    "shapes without an engine": ("--backend", "onnxruntime", "--max-shapes", "images:1x1x8x8"),
    "a target without an engine": ("--backend", "onnxruntime", "--compute-capability", "8.9"),
    "tf32 without an engine": ("--backend", "onnxruntime", "--precision", "tf32"),
}


@pytest.mark.parametrize("case", NEVER)
def test_convert_refuses_what_is_for_engines_only_before_it_loads_the_model(home: Path, case: str) -> None:
    assert_refused(run(*CONVERT, *NEVER[case]), 2, "the backend is onnxruntime")


def test_convert_for_a_library_that_is_missing_ends_in_3_before_it_loads_the_model(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    told = run(*CONVERT, "--backend", "tensorrt")
    assert_refused(told, 3, "The backend tensorrt needs the package tensorrt")
    assert 'hint:  pip install "tensorrt>=10.12"' in told.stderr
