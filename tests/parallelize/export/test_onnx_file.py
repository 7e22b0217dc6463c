"""What is read of an ONNX file, and which files are refused because they are not whole."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from parallelize.export.onnx_file import Product, file_hash, read_onnx
from passes.errors import ParallelizeError
from tests.parallelize.onnx_models import mlp, one_node, save, value, weight


def _refusal(path: Path) -> tuple[str, str]:
    with pytest.raises(ParallelizeError) as caught:
        read_onnx(path)
    return str(caught.value), caught.value.hint


def test_inputs_outputs_and_operators_are_read(tmp_path: Path) -> None:
    file = read_onnx(mlp(tmp_path / "m.onnx", "float16"))
    assert file.path == (tmp_path / "m.onnx").resolve()
    assert [(s.name, s.shape, s.dtype) for s in file.inputs] == [("x", ("batch", 8), torch.float16)]
    assert [(s.name, s.shape, s.dtype) for s in file.outputs] == [("y", ("batch", 4), torch.float16)]
    assert list(file.operators.items()) == [("MatMul", 2), ("Relu", 1)]
    assert (file.opset, file.data) == (18, ())


def test_products_are_read_with_their_weights_and_the_mark_of_width_fusion(tmp_path: Path) -> None:
    assert read_onnx(mlp(tmp_path / "m.onnx", "bfloat16")).products == (
        Product("first", "MatMul", (8, 16), "bfloat16", "w1_and_others"),
        Product("second", "MatMul", (16, 4), "bfloat16", None),
    )


def test_products_without_a_stored_matrix_and_other_operators_are_left_out(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "x"], ["a"], name="of states"),
        helper.make_node("Add", ["a", "w"], ["b"], name="sum"),
        helper.make_node("Gemm", ["b", "w", "bias"], ["y"], name="gemm"),
    ]
    weights = [weight("w", (8, 8)), weight("bias", (8,))]
    path = save(tmp_path / "m.onnx", nodes, [value("x", [8, 8])], [value("y", [8, 8])], weights)
    assert read_onnx(path).products == (Product("gemm", "Gemm", (8, 8), "float32", None),)


def test_a_product_without_a_name_is_called_as_tensorrt_calls_it(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    path = save(tmp_path / "m.onnx", [node], [value("x", [8, 8])], [value("y", [8, 8])], [weight("w", (8, 8))])
    assert [product.node for product in read_onnx(path).products] == ["node_of_y"]


def test_a_weight_that_old_exporters_list_among_the_inputs_is_no_input(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    inputs = [value("w", [8, 8]), value("x", [8, 8])]
    path = save(tmp_path / "m.onnx", [node], inputs, [value("y", [8, 8])], [weight("w", (8, 8))])
    assert [spec.name for spec in read_onnx(path).inputs] == ["x"]


@pytest.mark.parametrize(
    ("spelled", "read"),
    [
        ("batch", "batch"),
        ("2*batch", "2*batch"),
        ("batch + 1", "batch + 1"),
        ("past_length + length", "past_length + length"),
        ("batch-size", "x_0"),
        ("batch.size", "x_0"),
        ("batch size", "x_0"),
        ("batch + (", "x_0"),
        ("2**batch", "x_0"),
        ("floor(batch/2)", "x_0"),
        ("2*3", "x_0"),
        ("1.5*batch", "x_0"),
        (None, "x_0"),
    ],
)
def test_names_and_expressions_stay_and_odd_names_of_free_sizes_get_one_of_ours(
    spelled: str | None, read: str, tmp_path: Path
) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    path = save(tmp_path / "m.onnx", [node], [value("x", [spelled, 8])], [value("y", [None, 8])])
    (spec,) = read_onnx(path).inputs
    assert spec.shape == (read, 8)
    assert all(isinstance(size, int) for size in spec.sizes({"batch": 3}))


def test_an_element_type_that_torch_lacks_is_refused_by_name(tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    path = save(
        tmp_path / "m.onnx", [node], [value("x", [2], TensorProto.STRING)], [value("y", [2], TensorProto.STRING)]
    )
    assert _refusal(path)[0] == "The tensor 'x' has the element type string, which no tensor of torch has."


@pytest.mark.parametrize("element", [99, -1])
def test_an_element_type_that_onnx_does_not_know_is_refused_by_its_number(element: int, tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    path = save(tmp_path / "m.onnx", [node], [value("x", [2], element)], [value("y", [2])])
    assert _refusal(path)[0] == f"The tensor 'x' has the element type {element}, which no tensor of torch has."


def test_every_truncated_file_is_refused(tmp_path: Path) -> None:
    whole = mlp(tmp_path / "whole.onnx").read_bytes()
    cut = tmp_path / "cut.onnx"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        assert _refusal(cut)[0] == "cut.onnx is no ONNX model, or is truncated.", length


@pytest.mark.parametrize("name", ["m.onnx", "m.txt", "m.json", "m.onnxtxt", "m.textproto"])
@pytest.mark.parametrize("content", [b"", b"A text that is no model.\n", b"{}", bytes(range(256))])
def test_a_file_that_is_no_model_is_refused_whatever_it_is_called(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    message, hint = _refusal(tmp_path / name)
    assert message == f"{name} is no ONNX model, or is truncated."
    assert hint == "Export it again, or copy it again and compare the sizes."


def test_a_model_is_read_whatever_it_is_called(tmp_path: Path) -> None:
    mlp(tmp_path / "m.onnx").rename(tmp_path / "m.json")
    assert read_onnx(tmp_path / "m.json").opset == 18


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert _refusal(tmp_path / "none.onnx")[0] == f"{tmp_path / 'none.onnx'} does not exist."
    assert _refusal(tmp_path)[0] == f"{tmp_path} is a directory."


def test_external_weights_are_found_beside_the_file_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlp(tmp_path / "m.onnx", data="m.data")
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    file = read_onnx(Path("../m.onnx"))
    assert file.data == (tmp_path.resolve() / "m.data",)
    assert [product.shape for product in file.products] == [(8, 16), (16, 4)]


def test_missing_external_weights_are_refused_with_their_place(tmp_path: Path) -> None:
    mlp(tmp_path / "m.onnx", data="m.data")
    (tmp_path / "m.data").unlink()
    message, hint = _refusal(tmp_path / "m.onnx")
    assert message == "m.onnx keeps weights in m.data, which is missing."
    assert hint == f"Put m.data into {tmp_path.resolve()}."


def test_short_external_weights_are_refused_with_both_sizes(tmp_path: Path) -> None:
    mlp(tmp_path / "m.onnx", data="m.data")
    data = (tmp_path / "m.data").read_bytes()
    (tmp_path / "m.data").write_bytes(data[:-1])
    assert _refusal(tmp_path / "m.onnx") == (
        f"m.data ends after {len(data) - 1} bytes; m.onnx needs {len(data)}.",
        "Copy it again.",
    )


def _keep_weights_in(path: Path, entries: Sequence[tuple[str, str]]) -> None:
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        del tensor.external_data[:]
        for key, text in entries:
            entry = tensor.external_data.add()
            entry.key, entry.value = key, text
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("how", ["above", "absolute", "link"])
def test_external_weights_outside_the_folder_are_refused(how: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    mlp(folder / "m.onnx", data="m.data")
    outside = tmp_path / "outside.data"
    shutil.move(folder / "m.data", outside)
    location = {"above": "../outside.data", "absolute": str(outside), "link": "m.data"}[how]
    if how == "link":
        (folder / "m.data").symlink_to(outside)
    _keep_weights_in(folder / "m.onnx", [("location", location)])
    message, hint = _refusal(folder / "m.onnx")
    assert message == f"m.onnx keeps weights in {location}, outside its folder."
    assert hint == "Save the model with its weights beside it."


@pytest.mark.parametrize(
    "entries", [[("offset", "0")], [("location", "m.data"), ("offset", "many")], [("location", "m.data\0")]]
)
def test_external_weights_that_say_nothing_that_can_be_followed_are_refused(
    entries: list[tuple[str, str]], tmp_path: Path
) -> None:
    path = mlp(tmp_path / "m.onnx", data="m.data")
    _keep_weights_in(path, entries)
    assert _refusal(path)[0] == "m.onnx is no ONNX model, or is truncated."


def test_the_hash_covers_the_external_weights(tmp_path: Path) -> None:
    path = mlp(tmp_path / "m.onnx", data="m.data")
    before, model_only = read_onnx(path).sha256(), file_hash(path)
    data = bytearray((tmp_path / "m.data").read_bytes())
    data[-1] ^= 1
    (tmp_path / "m.data").write_bytes(data)
    assert file_hash(path) == model_only
    assert before not in (read_onnx(path).sha256(), model_only)


def test_the_hash_of_a_file_is_the_usual_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_hash(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_an_operator_of_another_domain_is_counted_like_any_other(tmp_path: Path) -> None:
    file = read_onnx(one_node(tmp_path / "m.onnx", "Wobble", "wobble", "made.up"))
    assert (file.operators, file.opset) == ({"Wobble": 1}, 18)
