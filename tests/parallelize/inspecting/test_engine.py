"""inspect of files: an ONNX file and an engine as tables and as JSON, and files that are not what they seem."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner, Result

from parallelize.backends.tensorrt.build import build
from parallelize.backends.tensorrt.layers import Layer
from parallelize.backends.tensorrt.library import RTX
from parallelize.backends.tensorrt.options import BuildOptions
from parallelize.backends.tensorrt.profiles import Profile
from parallelize.backends.tensorrt.sidecar import SCHEMA, Sidecar, read_sidecar, sidecar_path
from parallelize.cli.main import app
from parallelize.data.tensor_spec import TensorSpec
from parallelize.export.onnx import write_onnx
from parallelize.export.onnx_file import OnnxFile, Product, read_onnx
from parallelize.export.precision import cast
from parallelize.inspecting.engine import engine_as_dict, print_engine, print_onnx, wide_products
from parallelize.models.returned import Returned
from passes.fusion.fuse_width import FuseWidth
from passes.runner import run_passes
from passes.schedule.apply_plan import ApplyPlan
from tests.parallelize.backends.tensorrt.sidecars import put
from tests.parallelize.small_models import images, pairs, vision


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.onnx, a network with fused pairs in fp16, and its engine."""
    pytest.importorskip("tensorrt_rtx")
    folder = tmp_path_factory.mktemp("built")
    pixels = tuple(images(2, 0).arrays.values())
    module, _ = run_passes(vision().module, [ApplyPlan(pairs("none")), FuseWidth()], pixels)
    write_onnx(cast(replace(vision(), module=module), "fp16")[0], folder / "a.onnx")
    build(folder / "a.onnx", folder / "a.engine", RTX, BuildOptions(precision="fp16"), errors={"onnx": 1.25e-3})
    return folder


@pytest.fixture
def sidecar(folder: Path) -> Sidecar:
    return read_sidecar(folder / "a.engine")


@pytest.fixture
def home(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder to spoil, and the place where one is."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def printed(sidecar: Sidecar, path: Path, *, layers: bool = True) -> str:
    stream = io.StringIO()
    print_engine(sidecar, path, Console(width=200, file=stream), layers=layers)
    return stream.getvalue()


# ------------------------------------------------------------------------------------------------------- ONNX


def test_an_onnx_file_is_told_with_its_operators_and_wide_products(home: Path) -> None:
    told = run("inspect", "a.onnx")
    assert told.exit_code == 0, told.output
    text = " ".join(told.stdout.split())
    model = read_onnx(home / "a.onnx")
    assert "a.onnx ONNX, opset 18" in text
    assert "inputs: images batchx1x8x8 float32" in text
    assert "outputs: output batchx10 float32" in text
    assert f"{sum(model.operators.values())} nodes: " in text
    assert "float16" in text
    assert "wide_weight" in told.stdout


def test_an_onnx_file_as_json_is_what_the_file_says(home: Path) -> None:
    content = json.loads(run("inspect", "a.onnx", "--json").stdout)
    model = read_onnx(home / "a.onnx")
    assert content["opset"] == 18
    assert content["operators"] == model.operators
    assert [product["node"] for product in content["products"]] == [product.node for product in model.products]
    assert {product["dtype"] for product in content["products"]} == {"float16"}
    assert (content["inputs"], content["external_data"]) == (["images batchx1x8x8 float32"], [])


# ------------------------------------------------------------------------------------------------------- engines


def test_an_engine_is_told_with_its_shapes_errors_and_layers(home: Path, sidecar: Sidecar) -> None:
    told = run("inspect", "a.engine")
    assert told.exit_code == 0, told.output
    text = printed(sidecar, home / "a.engine")
    assert f"a.engine  {RTX} {sidecar.version}, built without a GPU in" in text
    assert f"for compute capability {', '.join(sidecar.targets)}" in text
    assert "shapes (least / usual / largest): images 1x1x8x8 / 1x1x8x8 / 32x1x8x8" in text
    assert f"weighted products of the ONNX: {len(sidecar.products)} in float16; TensorFloat-32 off" in text
    assert f"on 1 stream (told by the {sidecar.layers_from})" in text
    assert "measured, onnx: 1.25e-03" in text
    assert all(layer.name in text for layer in sidecar.layers if len(layer.name) < 40)
    assert sidecar.layers[-1].name not in printed(sidecar, home / "a.engine", layers=False).splitlines()


def test_an_engine_as_json_counts_its_kernels(home: Path, sidecar: Sidecar) -> None:
    content = json.loads(run("inspect", "a.engine", "--json").stdout)
    assert content == json.loads(json.dumps(engine_as_dict(sidecar)))
    assert len(content["layers"]) == len(sidecar.layers)
    assert 0 < content["critical_kernels"] <= content["kernels"] <= len(content["layers"])
    assert (content["precision"], content["gpu"], content["streams"]) == ("fp16", None, 1)
    assert content["errors"] == {"onnx": 1.25e-3}


def test_what_became_of_every_wide_product_is_told(sidecar: Sidecar) -> None:
    wide = wide_products(sidecar)
    assert len(wide) == sum(product.wide is not None for product in sidecar.products) > 0
    for product in wide:
        assert product["layers"]
        assert product["one_kernel"]
        assert product["dtypes"] == ["float16"]


def test_a_wide_product_that_the_listing_does_not_name_is_told_as_such(home: Path, sidecar: Sidecar) -> None:
    silent = replace(sidecar, layers=tuple(replace(layer, nodes=()) for layer in sidecar.layers))
    assert all((p["layers"], p["one_kernel"]) == ([], False) for p in wide_products(silent))
    text = printed(silent, home / "a.engine", layers=False)
    assert f"0 of {len(wide_products(silent))} wide products became one kernel each" in text
    assert "not told" in text


# ------------------------------------------------------------------------------------------------------- refused


def _no_sidecar(home: Path) -> None:
    sidecar_path(home / "a.engine").unlink()


def _another_engine(home: Path) -> None:
    (home / "a.engine").write_bytes((home / "a.engine").read_bytes() + b"x")


def _edited(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def edit(home: Path) -> None:
        path = sidecar_path(home / "a.engine")
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return edit


def _told(text: str) -> Callable[[Path], None]:
    def write(home: Path) -> None:
        sidecar_path(home / "a.engine").write_text(text)

    return write


def _binary(home: Path) -> None:
    sidecar_path(home / "a.engine").write_bytes(b"\xff\xfe\x00")


def _truncated(home: Path) -> None:
    (home / "a.onnx").write_bytes((home / "a.onnx").read_bytes()[:1000])


BAD: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "an engine that is missing": (lambda home: None, "gone.engine", "gone.engine does not exist"),
    "an engine without a sidecar": (_no_sidecar, "a.engine", "a.engine has no a.engine.json beside it"),
    "another engine than described": (_another_engine, "a.engine", "is not the engine that a.engine.json describes"),
    "a sidecar that is no JSON": (_told("{"), "a.engine", "a.engine.json cannot be read"),
    "a sidecar that is a list": (_told("[]"), "a.engine", "a.engine.json cannot be read"),
    "a sidecar that is no text": (_binary, "a.engine", "a.engine.json cannot be read"),
    "a sidecar of another schema": (_told('{"schema": "x/1"}'), "a.engine", f"has the schema 'x/1', not '{SCHEMA}'"),
    "a sidecar without a field": (_edited(lambda c: c.pop("layers")), "a.engine", "a.engine.json cannot be read"),
    "a sidecar with a field too many": (_edited(lambda c: c.update(x=1)), "a.engine", "a.engine.json cannot be read"),
    "an ONNX file that is missing": (lambda home: None, "gone.onnx", "gone.onnx does not exist"),
    "an ONNX file that is truncated": (_truncated, "a.onnx", "a.onnx is no ONNX model, or is truncated"),
}


@pytest.mark.parametrize("json_output", [False, True])
@pytest.mark.parametrize("case", BAD)
def test_a_file_that_is_not_what_it_seems_ends_in_one_sentence(home: Path, case: str, json_output: bool) -> None:
    spoil, name, sentence = BAD[case]
    spoil(home)
    told = run("inspect", name, *(["--json"] if json_output else []))
    assert told.exit_code == 2, told.output
    lines = [line for line in told.stderr.splitlines() if line.startswith(("error: ", "hint:  "))]
    assert [line[:7] for line in lines] == ["error: ", "hint:  "]
    assert sentence in lines[0]
    assert told.stdout == ""


# --------------------------------------------------------------------------------------------- names as they are

NAMES = ("{ForeignNode[/encoder/layers.0/fc/MatMul.../head/Gemm]}", "conv[profile 1] relu", "a:key:b [/red]")


def test_names_are_printed_as_they_are_and_not_read_as_markup(tmp_path: Path) -> None:
    stream = io.StringIO()
    console = Console(width=400, file=stream)
    path = tmp_path / "[red]a.engine"
    put(
        path,
        gpu="[b]GPU",
        layers=tuple(Layer(name, "[i]gemm", (), (), ("float16",), (name, "first"), 0) for name in NAMES),
        products=tuple(Product(name, "MatMul", (8, 4), "float16", f"[wide] {name}") for name in NAMES),
        inputs=(TensorSpec("x[bold]", (1, 8), torch.float16),),
        profiles=(Profile("x[bold]", (1, 8), (1, 8), (1, 8)),),
        errors={"onnx [/]": 1e-4},
    )
    print_engine(read_sidecar(path), path, console)
    model = OnnxFile(
        tmp_path / "[red]a.onnx",
        (TensorSpec("x[bold]", (1, 8), torch.float16),),
        (),
        tuple(Product(name, "[i]MatMul", (8, 4), "float16", None) for name in NAMES),
        {"[i]MatMul": 3},
        (tmp_path / "[red].data",),
        18,
        Returned.named(["y"]),
    )
    print_onnx(model, console)
    text = stream.getvalue()
    for name in (*NAMES, *(f"[wide] {name}" for name in NAMES), "[red]a.engine", "[b]GPU", "x[bold] 1x8", "[i]gemm"):
        assert name in text
    for name in ("onnx [/]", "[red]a.onnx", "[i]MatMul", "[red].data"):
        assert name in text


@pytest.mark.parametrize("name", ["a.onnx", "a.engine"])
@pytest.mark.parametrize("option", [("--inputs", "a.npz"), ("--weights", "w.pt"), ("--input", "images:1x1x8x8")])
def test_options_of_a_model_that_is_captured_are_refused_for_a_file(
    home: Path, name: str, option: tuple[str, str]
) -> None:
    told = run("inspect", name, *option)
    assert told.exit_code == 2, told.output
    assert f"error: {option[0]} is for a model that is captured, and {name} is read as it is.\n" in told.stderr
    assert f"hint:  Leave {option[0]} out.\n" in told.stderr
