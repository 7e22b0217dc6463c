"""Engines built by TensorRT for RTX, which needs no GPU: what is in the sidecar, what is refused and when."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from onnx import TensorProto, helper

from parallelize.backends.tensorrt import build as building
from parallelize.backends.tensorrt.build import build, check_layers
from parallelize.backends.tensorrt.layers import Layer
from parallelize.backends.tensorrt.options import BuildOptions, Precision
from parallelize.backends.tensorrt.profiles import Profile, ShapeOptions
from parallelize.backends.tensorrt.sidecar import BUILDER, Sidecar, read_sidecar
from parallelize.export.onnx_file import Product, read_onnx
from passes.errors import CheckError, ParallelizeError
from tests.parallelize.onnx_models import mlp, one_node, save, value, weight
from tests.parallelize.written import write

rtx = pytest.importorskip("tensorrt_rtx")
STORED = {"fp32": "float32", "tf32": "float32", "fp16": "float16", "bf16": "bfloat16"}
L4 = BuildOptions(compute_capabilities=("8.9",))


def _build(onnx: Path, options: BuildOptions = L4) -> Sidecar:
    return build(onnx, onnx.with_suffix(".engine"), "tensorrt-rtx", options)


def _refusal(
    onnx: Path, options: BuildOptions = L4, error: type[ParallelizeError] = ParallelizeError
) -> tuple[str, str]:
    """The sentence and the hint; nothing was written."""
    with pytest.raises(error) as caught:
        _build(onnx, options)
    assert not list(onnx.parent.glob("*.engine*"))
    return str(caught.value), caught.value.hint


@pytest.fixture
def no_builder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The builder must not be called."""

    def fail(*_: object) -> NoReturn:
        pytest.fail("the builder was called")

    monkeypatch.setattr(building, "_build", fail)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
@pytest.mark.parametrize("batch", [4, "batch"])
def test_an_engine_is_built_in_the_precision_of_its_onnx(
    precision: Precision, batch: int | str, tmp_path: Path
) -> None:
    sidecar = _build(mlp(tmp_path / "m.onnx", STORED[precision], batch), replace(L4, precision=precision))
    assert {dtype for layer in sidecar.layers for dtype in layer.weights} == {STORED[precision]}
    assert {node for layer in sidecar.layers for node in layer.nodes} == {"first", "relu", "second"}
    ends = (1, 1, 32) if batch == "batch" else (4, 4, 4)
    assert sidecar.profiles == (Profile("x", *((size, 8) for size in ends)),)
    assert sidecar.flags["tf32"] is (precision == "tf32")


def test_the_sidecar_says_what_was_built_of_what(tmp_path: Path) -> None:
    onnx = mlp(tmp_path / "m.onnx", "float16")
    start = dt.datetime.now(dt.timezone.utc).replace(microsecond=0)
    options = replace(L4, precision="fp16", workspace=64, optimization_level=2, max_aux_streams=0)
    engine = tmp_path / "out.engine"
    sidecar = build(onnx, engine, "tensorrt-rtx", options, plan={"levels": [[1, 2]]}, errors={"fp16": 1e-3})
    assert (sidecar.backend, sidecar.version, sidecar.targets) == ("tensorrt-rtx", rtx.__version__, ("8.9",))
    assert (sidecar.gpu, sidecar.precision, sidecar.layers_from) == (None, "fp16", BUILDER)
    assert sidecar.onnx_sha256 == hashlib.sha256(onnx.read_bytes()).hexdigest()
    assert sidecar.engine_sha256 == hashlib.sha256(engine.read_bytes()).hexdigest()
    assert sidecar.flags == {
        "tf32": False,
        "workspace_mib": 64,
        "optimization_level": 2,
        "max_aux_streams": 0,
        "version_compatible": False,
        "hardware_compatibility": "none",
    }
    file = read_onnx(onnx)
    assert (sidecar.inputs, sidecar.outputs, sidecar.products) == (file.inputs, file.outputs, file.products)
    assert (sidecar.plan, sidecar.errors) == ({"levels": [[1, 2]]}, {"fp16": 1e-3})
    assert dt.datetime.fromisoformat(sidecar.date) >= start
    assert sidecar.build_seconds > 0
    assert json.loads((tmp_path / "out.engine.json").read_text())["plan"] == {"levels": [[1, 2]]}
    assert read_sidecar(engine) == replace(sidecar, plan={"levels": [[1, 2]]})


def test_an_exported_model_is_built_and_all_its_products_are_checked(tmp_path: Path) -> None:
    sidecar = _build(write(tmp_path / "m.onnx"), replace(L4, precision="fp32"))
    assert len(sidecar.products) > 4
    told = {node for layer in sidecar.layers if layer.weights for node in layer.nodes}
    assert {product.node for product in sidecar.products} <= told


def test_without_named_gpus_the_engine_is_for_all_portable_ones(tmp_path: Path) -> None:
    sidecar = _build(mlp(tmp_path / "m.onnx"), BuildOptions())
    assert sidecar.targets == ("8.0", "8.6", "8.9", "12.0", "12.1")


def test_a_product_without_a_name_is_found_in_the_engine_and_checked(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    path = save(tmp_path / "m.onnx", [node], [value("x", [4, 8])], [value("y", [4, 8])], [weight("w", (8, 8))])
    sidecar = _build(path, replace(L4, precision="fp32"))
    assert "node_of_y" in {node for layer in sidecar.layers for node in layer.nodes}


def test_an_input_without_axes_is_taken(tmp_path: Path) -> None:
    node = helper.make_node("Mul", ["x", "scale"], ["y"], name="mul")
    path = save(tmp_path / "m.onnx", [node], [value("x", ["batch", 8]), value("scale", [])], [value("y", ["batch", 8])])
    assert _build(path).profiles[1] == Profile("scale", (), (), ())


def test_external_weights_are_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlp(tmp_path / "m.onnx", data="m.data")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    sidecar = _build(Path("../m.onnx"), replace(L4, precision="fp32"))
    assert sidecar.onnx_sha256 == read_onnx(tmp_path / "m.onnx").sha256()
    assert (tmp_path / "m.engine").stat().st_size > 0


def test_progress_is_told_and_grows_to_the_whole(tmp_path: Path) -> None:
    told: list[tuple[str, float | None]] = []
    onnx = mlp(tmp_path / "m.onnx")
    build(onnx, tmp_path / "m.engine", "tensorrt-rtx", L4, report=lambda what, share: told.append((what, share)))
    shares = [share for _, share in told if share is not None]
    assert {what for what, _ in told} == {"building the engine"}
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    assert len(set(shares)) > 3


def test_another_precision_than_the_files_is_refused_before_the_builder_is_called(
    tmp_path: Path, no_builder: None
) -> None:
    assert _refusal(mlp(tmp_path / "m.onnx"), replace(L4, precision="fp16")) == (
        "fp16 was asked for, but the weight of first (MatMul) in m.onnx is float32.",
        "Cast the model before export: parallelize convert --precision fp16.",
    )


def test_shapes_that_the_model_does_not_take_are_refused_before_the_builder_is_called(
    tmp_path: Path, no_builder: None
) -> None:
    message, _ = _refusal(mlp(tmp_path / "m.onnx"), replace(L4, shapes=ShapeOptions.fixed({"x": (4, 9)})))
    assert message == "--min-shapes x:4x9 has 9 on axis 1, where the model fixes 8."


@pytest.mark.parametrize(("precision", "asked"), [("fp16", "float32"), ("fp32", "float16")])
def test_a_layer_in_another_dtype_is_refused_with_its_name(precision: Precision, asked: str, tmp_path: Path) -> None:
    sidecar = _build(mlp(tmp_path / "m.onnx", asked))
    with pytest.raises(CheckError) as caught:
        check_layers(sidecar.products, sidecar.layers, precision)
    assert str(caught.value) == (
        f"{precision} was asked for, but the engine's layer first_myl0_1 computes first in {asked}."
    )
    check_layers(sidecar.products, sidecar.layers, None)


def test_an_engine_that_tells_no_dtype_is_refused_and_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = (Layer("first", "", (), (), (), (), 0),)
    monkeypatch.setattr(building, "_layers", lambda *_: (names, BUILDER))
    message, hint = _refusal(mlp(tmp_path / "m.onnx"), replace(L4, precision="fp32"), CheckError)
    assert message == "fp32 was asked for, but the library does not tell the dtype of any of the engine's products."
    assert "compare" in hint


def test_a_product_that_tells_nothing_is_passed_over_beside_one_that_does() -> None:
    products = [Product(name, "MatMul", (2, 2), "float16", None) for name in ("told", "untold")]
    layers = [Layer("a", "gemm", (), (), ("float16",), ("told",), 0), Layer("b", "kgen", (), (), (), ("untold",), 0)]
    check_layers(products, layers, "fp16")
    with pytest.raises(CheckError, match="does not tell the dtype of any"):
        check_layers(products[1:], layers, "fp16")


@pytest.mark.parametrize(
    ("operator", "name", "domain", "told"),
    [
        ("Wobble", "my_wobble", "made.up", "my_wobble (Wobble): "),
        ("Det", "my_det", "", "my_det (Det): "),
        ("Wobble", "", "", "node 0 (Wobble): "),
    ],
)
def test_an_operator_that_the_library_lacks_is_refused_with_node_operator_and_code(
    operator: str, name: str, domain: str, told: str, tmp_path: Path
) -> None:
    message, hint = _refusal(one_node(tmp_path / "m.onnx", operator, name, domain))
    assert message.startswith(f"TensorRT for RTX {rtx.__version__} cannot take m.onnx: {told}")
    assert message.endswith(("[INVALID_NODE].", "[UNSUPPORTED_NODE]."))
    assert "ONNX Runtime" in hint


def test_of_many_operators_that_the_library_lacks_five_are_named_and_the_rest_is_counted(tmp_path: Path) -> None:
    names = ["x", *(f"v{number}" for number in range(7)), "y"]
    nodes = [helper.make_node("Wobble", [names[i]], [names[i + 1]], name=f"w{i}") for i in range(8)]
    message, _ = _refusal(save(tmp_path / "m.onnx", nodes, [value("x", [4, 8])], [value("y", [4, 8])]))
    assert [f"w{number} (Wobble)" in message for number in range(8)] == [True] * 5 + [False] * 3
    assert message.endswith("; and 3 more.")


def test_an_input_whose_values_set_shapes_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("Reshape", ["x", "shape"], ["y"], name="reshape")
    inputs = [value("x", [4, 8]), value("shape", [2], TensorProto.INT64)]
    message, _ = _refusal(save(tmp_path / "m.onnx", [node], inputs, [value("y", ["a", "b"])]))
    assert message == "The values of the input 'shape' set shapes, which this build has no profile for."


def test_what_the_builder_cannot_do_is_refused_with_its_last_words(tmp_path: Path) -> None:
    node = helper.make_node("Reshape", ["x", "shape"], ["y"], name="reshape")
    sizes = helper.make_tensor("shape", TensorProto.INT64, [2], [5, 8])
    path = save(tmp_path / "m.onnx", [node], [value("x", ["batch", 8])], [value("y", [5, 8])], [sizes])
    message, _ = _refusal(path, replace(L4, shapes=ShapeOptions.fixed({"x": (4, 8)})))
    assert message.startswith(f"TensorRT for RTX {rtx.__version__} cannot build m.onnx: ")
    assert "Reshaping [4,8] to [5,8]" in message
    assert "\n" not in message


def test_a_file_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    onnx = mlp(tmp_path / "m.onnx")
    onnx.write_bytes(onnx.read_bytes()[:-7])
    assert _refusal(onnx)[0] == "m.onnx is no ONNX model, or is truncated."


def test_missing_external_weights_are_refused(tmp_path: Path) -> None:
    onnx = mlp(tmp_path / "m.onnx", data="m.data")
    (tmp_path / "m.data").unlink()
    assert _refusal(onnx)[0] == "m.onnx keeps weights in m.data, which is missing."


def test_a_gpu_that_the_library_has_no_kernels_for_is_refused_with_those_it_has(
    tmp_path: Path, no_builder: None
) -> None:
    assert _refusal(mlp(tmp_path / "m.onnx"), BuildOptions(compute_capabilities=("8.9", "9.0"))) == (
        f"TensorRT for RTX {rtx.__version__} has no kernels for compute capability 9.0.",
        "It builds for 7.5, 8.0, 8.6, 8.9, 12.0, 12.1.",
    )


@pytest.mark.parametrize(
    ("options", "option"),
    [
        (BuildOptions(timing_cache=Path("cache")), "--timing-cache"),
        (BuildOptions(version_compatible=True), "--version-compatible"),
        (BuildOptions(hardware_compatibility="ampere+"), "--hardware-compatibility-level"),
    ],
)
def test_options_of_the_other_library_are_refused(
    options: BuildOptions, option: str, tmp_path: Path, no_builder: None
) -> None:
    message, hint = _refusal(mlp(tmp_path / "m.onnx"), options)
    assert message == f"{option} is for tensorrt: tensorrt-rtx builds without a GPU and has no use for it."
    assert "--backend tensorrt" in hint
