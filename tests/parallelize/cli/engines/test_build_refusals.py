"""build of what cannot be built: the exit code, one sentence and one hint."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.parallelize.cli.commands import run
from tests.parallelize.cli.engines.told import assert_refused


def _nothing(home: Path) -> None:
    pass


def _truncate(home: Path) -> None:
    whole = (home / "a.onnx").read_bytes()
    (home / "a.onnx").write_bytes(whole[: len(whole) // 2])


def _external(home: Path) -> None:
    """The model keeps its weights in a file, which is lost."""
    model = onnx.load(home / "a.onnx")
    onnx.save(model, home / "a.onnx", save_as_external_data=True, location="a.data", size_threshold=0)
    (home / "a.data").unlink()


def _shortened(home: Path) -> None:
    model = onnx.load(home / "a.onnx")
    onnx.save(model, home / "a.onnx", save_as_external_data=True, location="a.data", size_threshold=0)
    (home / "a.data").write_bytes((home / "a.data").read_bytes()[:100])


def _unknown_operator(home: Path) -> None:
    weight = numpy_helper.from_array(np.ones((4, 4), "f4"), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], "first"), helper.make_node("Det", ["h"], ["y"], "second")]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [])
    graph = helper.make_graph(nodes, "g", [x], [y], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), home / "a.onnx")


def _folder(home: Path) -> None:
    (home / "a.engine").mkdir()


def _folder_of_sidecar(home: Path) -> None:
    (home / "a.engine.json").mkdir()


def _model_of_sidecar(home: Path) -> None:
    (home / "a.onnx").rename(home / "m.json")


Prepare = Callable[[Path], object]
BAD: dict[str, tuple[Prepare, tuple[str, ...], int, str]] = {
    "missing file": (_nothing, ("gone.onnx",), 2, "gone.onnx does not exist"),
    "truncated ONNX": (_truncate, ("a.onnx",), 2, "a.onnx is no ONNX model, or is truncated"),
    "a file of another kind": (lambda home: (home / "a.onnx").write_text("no"), ("a.onnx",), 2, "is no ONNX model"),
    "an empty file": (lambda home: (home / "a.onnx").write_bytes(b""), ("a.onnx",), 2, "is no ONNX model"),
    "lost weights": (_external, ("a.onnx",), 2, "keeps weights in a.data, which is missing"),
    "short weights": (_shortened, ("a.onnx",), 2, "a.data ends after 100 bytes"),
    "an operator that the library lacks": (_unknown_operator, ("a.onnx",), 2, "second (Det)"),
    "shape of no input": (_nothing, ("a.onnx", "--max-shapes", "pixels:1x1x8x8"), 2, "no input 'pixels'"),
    "shape of another rank": (_nothing, ("a.onnx", "--max-shapes", "images:1x8x8"), 2, "has 3 sizes"),
    "shape of another fixed size": (_nothing, ("a.onnx", "--max-shapes", "images:1x1x9x8"), 2, "fixes 8"),
    "shape that is no shape": (_nothing, ("a.onnx", "--max-shapes", "images:1xbx8x8"), 2, "is no shape"),
    "shapes that do not grow": (
        _nothing,
        ("a.onnx", "--min-shapes", "images:8x1x8x8", "--max-shapes", "images:4x1x8x8"),
        2,
        "does not grow",
    ),
    "precision of another model": (
        _nothing,
        ("a.onnx", "--precision", "fp16"),
        2,
        "fp16 was asked for, but the weight",
    ),
    "a GPU without kernels": (_nothing, ("a.onnx", "--compute-capability", "9.0"), 2, "compute capability 9.0"),
    "a backend without engines": (_nothing, ("a.onnx", "--backend", "onnxruntime"), 2, "builds no engines"),
    "an option of the other library": (
        _nothing,
        ("a.onnx", "--timing-cache", "t"),
        2,
        "--timing-cache is for tensorrt",
    ),
    "a plan that is none": (lambda home: (home / "p").write_text("{"), ("a.onnx", "--plan", "p"), 2, "plan"),
    "the model itself as output": (_nothing, ("a.onnx", "-o", "a.onnx", "--force"), 2, "is the model itself"),
    "a folder as output": (_folder, ("a.onnx", "--force"), 2, "it is a directory"),
    "a folder as sidecar": (_folder_of_sidecar, ("a.onnx", "--force"), 2, "a.engine.json: it is a directory"),
    "the model itself as sidecar": (
        _model_of_sidecar,
        ("m.json", "-o", "m", "--force"),
        2,
        "m.json is the model itself",
    ),
    "output in no folder": (_nothing, ("a.onnx", "-o", "none/a.engine"), 3, "there is no folder none"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_ends_in_one_sentence_before_the_builder_is_called(
    case: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, arguments, code, sentence = BAD[case]
    prepare(home)
    before = {path.name for path in home.iterdir()}

    def building(*_: object) -> None:
        raise AssertionError("the builder was called")

    if case != "an operator that the library lacks":
        monkeypatch.setattr("parallelize.backends.tensorrt.build._build", building)
    assert_refused(run("build", *arguments), code, sentence)
    assert {path.name for path in home.iterdir()} == before


def test_a_precision_that_does_not_exist_is_refused_with_those_that_do(home: Path) -> None:
    told = run("build", "a.onnx", "--precision", "int4")
    assert told.exit_code == 2
    assert all(word in told.stderr for word in ("int4", "fp32", "tf32", "fp16", "bf16"))


@pytest.mark.parametrize(
    ("missing", "arguments", "sentence", "hint"),
    [
        (("tensorrt",), ("--backend", "tensorrt"), "needs the package tensorrt", 'pip install "tensorrt>=10.12"'),
        (
            ("tensorrt", "tensorrt_rtx"),
            ("--backend", "tensorrt-rtx"),
            "needs the package tensorrt_rtx",
            "pip install tensorrt-rtx==1.7.1.116",
        ),
        (("tensorrt", "tensorrt_rtx"), (), "No TensorRT is installed", "pip install tensorrt-rtx==1.7.1.116"),
    ],
)
def test_a_library_that_is_missing_ends_in_3_with_the_command_to_install_it(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    missing: tuple[str, ...],
    arguments: tuple[str, ...],
    sentence: str,
    hint: str,
) -> None:
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    told = run("build", "a.onnx", *arguments)
    assert_refused(told, 3, sentence)
    assert hint in told.stderr
