"""build as a user meets it: the files, the exit codes, one sentence and one hint; engines where there is no GPU."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner, Result

from parallelize.backends.tensorrt.options import BuildOptions
from parallelize.backends.tensorrt.profiles import ShapeOptions
from parallelize.backends.tensorrt.sidecar import read_sidecar
from parallelize.cli.main import app
from parallelize.conversion.options import ConvertOptions, EngineOptions
from parallelize.export.onnx import write_onnx
from parallelize.export.precision import cast
from parallelize.models.capture import export
from passes.errors import ParallelizeError
from passes.fusion.fuse_width import FuseWidth
from passes.runner import run_passes
from passes.schedule.apply_plan import ApplyPlan
from tests.parallelize.small_models import images, pairs, vision

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
QUICK = ("--warm-up", "0", "--duration", "0.01", "--device", "cpu")


@pytest.fixture(scope="module", autouse=True)
def _rtx() -> None:
    pytest.importorskip("tensorrt_rtx")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The ONNX of a network with fused pairs, in fp32 and fp16."""
    folder = tmp_path_factory.mktemp("files")
    pixels = tuple(images(2, 0).arrays.values())
    module, _ = run_passes(vision().module, [ApplyPlan(pairs("none")), FuseWidth()], pixels)
    program = type(vision())(module, vision().inputs, vision().outputs, "pairs")
    write_onnx(program, folder / "a.onnx")
    write_onnx(cast(program, "fp16")[0], folder / "half.onnx")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def spoken(told: Result) -> str:
    """What was printed, without the line breaks of a narrow terminal."""
    return " ".join(told.stdout.split())


def assert_refused(told: Result, code: int, sentence: str) -> None:
    assert told.exit_code == code, told.output
    lines = [line for line in told.stderr.splitlines() if line.startswith(("error: ", "hint:  "))]
    assert [line[:7] for line in lines] == ["error: ", "hint:  "]
    assert sentence in lines[0]
    assert lines[0].endswith(".")
    assert "Traceback" not in told.output


# ------------------------------------------------------------------------------------------------------- build


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


# ------------------------------------------------------------------------------------------------------- convert


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


# --------------------------------------------------------------------------------------------------- without a GPU


@WITHOUT_GPU
def test_compare_with_an_engine_ends_in_3_and_bench_skips_it_with_the_reason(home: Path) -> None:
    assert run("build", "a.onnx").exit_code == 0
    assert_refused(run("compare", "a.onnx", "a.engine"), 3, "a GPU, and there is none here")
    told = run("bench", "a.onnx", "a.engine", "--json", "b.json", *QUICK)
    assert told.exit_code == 0, told.output
    assert "a.engine runs on a GPU, and there is none here" in spoken(told)
    skipped = json.loads((home / "b.json").read_text())["skipped"]
    assert "there is none here" in json.dumps(skipped)


@WITHOUT_GPU
def test_bench_of_nothing_but_an_engine_ends_in_3(home: Path) -> None:
    assert run("build", "a.onnx").exit_code == 0
    assert_refused(run("bench", "a.engine", *QUICK), 3, "Nothing could be timed")
