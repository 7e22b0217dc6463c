"""The layers of an engine, out of the builder's text and out of the inspector's JSON as 10 and 11 spell it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallelize.backends.tensorrt.layers import (
    Layer,
    LayerTensor,
    as_plain,
    critical_layers,
    from_json,
    from_plain,
    from_text,
    kernels,
    layers_of,
    streams,
)

# What TensorRT for RTX 1.7.1.116 says at the end of a verbose build of two branches of x, float16, for SM89:
# x -> left -> left_relu -> left_out, x -> soft -> right -> right_act -> right_out, and their sum.
LISTING = Path(__file__).parent / "rtx_listing.txt"
_SPELLED = {
    "float32": ("Float", "FP32"),
    "float16": ("Half", "FP16"),
    "bfloat16": ("BFloat16", "BF16"),
    "int64": ("Int64", "INT64"),
    "int32": ("Int32", "INT32"),
    "int8": ("Int8", "INT8"),
    "bool": ("Bool", "Bool"),
    "fp8": ("FP8", "FP8"),
}


def _layer(name: str, reads: str = "", writes: str = "", kind: str = "gemm", stream: int = 0) -> Layer:
    """Tensors by their names, such as "x y"."""
    inputs, outputs = (tuple(LayerTensor(n, (2,), "float16") for n in names.split()) for names in (reads, writes))
    return Layer(name, kind, inputs, outputs, (), (), stream)


@pytest.fixture(scope="module")
def listed() -> tuple[Layer, ...]:
    return from_text(LISTING.read_text())


def test_every_layer_of_a_real_listing_is_read(listed: tuple[Layer, ...]) -> None:
    assert [(layer.name, layer.kind, layer.nodes) for layer in listed] == [
        ("__mye794_0_myl0_0", "shape_call", ()),
        ("__myl_MoveMaxrSubExpSumDiv_myl0_1", "kgen", ("soft",)),
        ("right_myl0_2", "gemm", ("right",)),
        ("__myl_Sigm_myl0_3", "kgen", ("right_act",)),
        ("right_out_myl0_4", "gemm", ("right_out",)),
        ("left_myl0_5", "gemm", ("left", "left_relu")),
        ("left_out_myl0_6", "gemm", ("left_out",)),
        ("__myl_Add_myl0_7", "kgen", ("sum",)),
    ]


def test_tensors_of_a_real_listing_have_names_shapes_and_dtypes(listed: tuple[Layer, ...]) -> None:
    half = "float16"
    assert listed[2].inputs == (LayerTensor("soft_output.1_myl0", (-1, 64), half),)
    assert listed[2].outputs == (LayerTensor("__mye2927_myl0", (-1, 256), half),)
    assert [tensor.name for tensor in listed[7].inputs] == ["__myln_k_arg__bb1_11_myl0", "__myln_k_arg__bb1_9_myl0"]


def test_the_scalars_of_a_gemm_are_no_weights(listed: tuple[Layer, ...]) -> None:
    assert (
        LISTING.read_text().count("alpha_myl0, Dimensions: [1], Strides: [1], StrideOrder: [0], Datatype: Float") == 4
    )
    assert {layer.name: layer.weights for layer in listed if layer.weights} == {
        "right_myl0_2": ("float16",),
        "right_out_myl0_4": ("float16",),
        "left_myl0_5": ("float16",),
        "left_out_myl0_6": ("float16",),
    }


def test_two_branches_of_a_real_listing_wait_for_five_of_seven_kernels(listed: tuple[Layer, ...]) -> None:
    assert (len(listed), kernels(listed), critical_layers(listed), streams(listed)) == (8, 7, 5, 1)


def test_layers_are_found_by_the_onnx_node_that_they_compute(listed: tuple[Layer, ...]) -> None:
    assert layers_of(listed, "left_relu") == (listed[5],)
    assert layers_of(listed, "left_rel") == ()


def _tensor_of_10(tensor: LayerTensor) -> dict[str, Any]:
    form = f"Row major linear {_SPELLED[tensor.dtype or ''][1]} format"
    return {"Name": tensor.name, "Location": "Device", "Dimensions": list(tensor.shape), "Format/Datatype": form}


def _tensor_of_11(tensor: LayerTensor) -> dict[str, Any]:
    return {
        "Name": tensor.name,
        "Dimensions": list(tensor.shape),
        "Datatype": _SPELLED[tensor.dtype or ""][0],
        "Format": "(Linear) Row major linear format",
    }


def _json(layers: Sequence[Layer], version: int) -> str:
    tensor = _tensor_of_10 if version == 10 else _tensor_of_11
    spelled = []
    for layer in layers:
        value = {
            "Name": layer.name,
            "LayerType": layer.kind,
            "Inputs": [tensor(t) for t in layer.inputs],
            "Constants": [tensor(LayerTensor(f"w{n}", (3, 4), dtype)) for n, dtype in enumerate(layer.weights)],
            "Outputs": [tensor(t) for t in layer.outputs],
            "TacticName": "sm80_xmma_gemm_f16f16_f32",
            "StreamId": layer.stream,
            "Metadata": "\x1e".join(f"[ONNX Layer: {node}]" for node in layer.nodes),
        }
        spelled.append(value)
    ends = {"Bindings": ["x", "y"]} if version == 10 else {"I/O Tensors": [{"Name": "x", "DataType": "Half"}]}
    return json.dumps({"Layers": spelled, **ends})


def _line(layer: Layer) -> str:
    def tensors(values: Sequence[LayerTensor]) -> str:
        parts = [
            f"{{ Name: {t.name}, Dimensions: [{','.join(map(str, t.shape))}], Strides: [1], StrideOrder: [0],"
            f" Datatype: {_SPELLED[t.dtype or ''][0]}, Format: (Linear) Row major linear format }}"
            for t in values
        ]
        return f"[ {', '.join(parts)}]" if parts else "[]"

    constants = [LayerTensor(f"w{number}", (3, 4), dtype) for number, dtype in enumerate(layer.weights)]
    nodes = "".join(f"[ONNX Layer: {node}]" for node in layer.nodes)
    return (
        f"Name: {layer.name}, LayerType: {layer.kind}, Inputs: {tensors(layer.inputs)},"
        f" Constants: {tensors(constants)}, Outputs: {tensors(layer.outputs)},"
        f" TacticName: none, StreamId: {layer.stream}, Metadata: {nodes}"
    )


_NAMES = st.from_regex(r"[A-Za-z_/][\w/.:]{0,12}(\[\d\])?", fullmatch=True)
_DTYPE = st.sampled_from(sorted(_SPELLED))
_TENSORS = st.lists(
    st.builds(LayerTensor, _NAMES, st.lists(st.integers(-1, 4096), max_size=4).map(tuple), _DTYPE), max_size=3
).map(tuple)
_LAYERS = st.lists(
    st.builds(
        Layer,
        _NAMES,
        st.sampled_from(["gemm", "kgen", "signal", "wait", "shape_call"]),
        _TENSORS,
        _TENSORS,
        st.lists(_DTYPE, max_size=2).map(tuple),
        st.lists(_NAMES, max_size=3).map(tuple),
        st.integers(0, 4),
    ),
    min_size=1,
    max_size=4,
).map(tuple)


@given(_LAYERS, st.sampled_from([10, 11]))
def test_json_of_both_versions_is_read_whole(layers: tuple[Layer, ...], version: int) -> None:
    assert from_json(_json(layers, version)) == layers


@given(_LAYERS)
def test_text_is_read_whole_and_the_tensors_of_the_engine_are_no_layers(layers: tuple[Layer, ...]) -> None:
    lines = "\n".join(map(_line, layers))
    for ends in ("\nBindings:\nx\ny", "\n\nI/O Tensors:\n Name: x, IOMode: Input", "\n\nI/O Tensors:\nName: x", ""):
        assert from_text(f"Layers:\n{lines}{ends}") == layers


def test_what_streams_wait_for_is_told_behind_their_number() -> None:
    empty = "Inputs: [], Constants: [], Outputs: [], TacticName: , "
    text = (
        f"Name: a, LayerType: signal, {empty}StreamId: 0, EventId: 12, Metadata: \n"
        f"Name: b, LayerType: wait, {empty}StreamId: 3, EventId: 12, Metadata: "
    )
    found = from_text(text)
    assert [(layer.kind, layer.stream) for layer in found] == [("signal", 0), ("wait", 3)]
    assert (kernels(found), streams(found)) == (0, 2)


@given(_LAYERS)
def test_layers_come_back_from_plain_values_after_json(layers: tuple[Layer, ...]) -> None:
    assert from_plain(json.loads(json.dumps(as_plain(layers)))) == layers


def test_a_tensor_without_a_dtype_comes_back_from_plain_values() -> None:
    layers = (Layer("a", "", (LayerTensor("x", (), None),), (), (), (), 0),)
    assert from_plain(json.loads(json.dumps(as_plain(layers)))) == layers


@pytest.mark.parametrize(("stored", "dtype"), [("Half", "float16"), ("BFloat16", "bfloat16"), ("Float", "float32")])
def test_weights_that_are_told_by_their_type_count(stored: str, dtype: str) -> None:
    convolution = {
        "Name": "conv",
        "LayerType": "CaskConvolution",
        "Inputs": [],
        "Outputs": [],
        "Weights": {"Type": stored, "Count": 64},
        "Bias": {"Type": "Float", "Count": 8},
        "Metadata": "[ONNX Layer: /conv1/Conv]",
    }
    (layer,) = from_json(json.dumps({"Layers": [convolution], "Bindings": []}))
    assert (layer.weights, layer.nodes) == ((dtype,), ("/conv1/Conv",))


def test_a_vectorized_format_tells_its_dtype() -> None:
    form = "Channel major FP16 format where channel % 8 == 0"
    value = {"Name": "a", "Inputs": [{"Name": "x", "Dimensions": [1, 8], "Format/Datatype": form}]}
    (layer,) = from_json(json.dumps({"Layers": [value]}))
    assert layer.inputs == (LayerTensor("x", (1, 8), "float16"),)


def test_an_unknown_dtype_is_none() -> None:
    value = {"Name": "a", "Inputs": [{"Name": "x", "Dimensions": [1], "Datatype": "E8M0"}]}
    (layer,) = from_json(json.dumps({"Layers": [value]}))
    assert layer.inputs == (LayerTensor("x", (1,), None),)


def test_layers_of_an_engine_that_keeps_names_only_have_no_details_and_count_as_kernels() -> None:
    layers = from_json(json.dumps({"Layers": ["first", "second"], "Bindings": ["x", "y"]}))
    assert layers == (Layer("first", "", (), (), (), (), 0), Layer("second", "", (), (), (), (), 0))
    assert (kernels(layers), critical_layers(layers)) == (2, 1)


def test_no_layers_have_no_kernels() -> None:
    assert from_text("") == from_json('{"Layers": []}') == ()
    assert (kernels(()), critical_layers(()), streams(())) == (0, 0, 0)


def test_parallel_branches_wait_for_the_longer_one_and_bookkeeping_does_not_count() -> None:
    layers = [
        _layer("shapes", "", "", "shape_call"),
        _layer("a1", "x", "a1"),
        _layer("go", "a1", "go", "signal"),
        _layer("b1", "x", "b1", stream=1),
        _layer("a2", "a1", "a2"),
        _layer("stop", "go", "stop", "wait", stream=1),
        _layer("b2", "b1 stop", "b2", stream=1),
        _layer("a3", "a2", "a3"),
        _layer("sum", "a3 b2", "y"),
    ]
    assert kernels(layers) == 6
    assert critical_layers(layers) == 4  # a1, a2, a3, sum
    assert streams(layers) == 2


def test_kernels_wait_through_a_signal_between_them() -> None:
    layers = [
        _layer("a", "x", "a"),
        _layer("s", "a", "s", "signal"),
        _layer("w", "s", "w", "wait"),
        _layer("b", "w", "b"),
    ]
    assert (kernels(layers), critical_layers(layers)) == (2, 2)


def test_a_reader_waits_for_all_that_write_into_one_tensor() -> None:
    layers = [_layer("a", "x", "a"), _layer("b", "a", "both"), _layer("c", "x", "both"), _layer("d", "both", "y")]
    assert critical_layers(layers) == 3  # a, b, d


def test_a_reader_does_not_wait_for_what_is_written_after_it() -> None:
    layers = [_layer("a", "x", "t"), _layer("b", "t", "y"), _layer("c", "x", "t")]
    assert critical_layers(layers) == 2
