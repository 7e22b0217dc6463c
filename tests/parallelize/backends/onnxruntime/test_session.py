"""ONNX Runtime: runs a file on tensors, or says in one sentence why not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from onnx import TensorProto, helper, save

from parallelize.backends.onnxruntime.session import OnnxRuntime
from passes.errors import EnvironmentLackError, ParallelizeError

LEFT = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
RIGHT = torch.tensor([[10.0], [20.0], [30.0]])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """(left, right) -> (difference, product), both of any batch."""
    left = helper.make_tensor_value_info("left", TensorProto.FLOAT, ["batch", 2])
    right = helper.make_tensor_value_info("right", TensorProto.FLOAT, ["batch", 1])
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("minus", "times")]
    nodes = [
        helper.make_node("Sub", ["left", "right"], ["minus"]),
        helper.make_node("Mul", ["left", "right"], ["times"]),
    ]
    graph = helper.make_graph(nodes, "small", [left, right], results)
    path = tmp_path / "small.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_inputs_are_fed_and_outputs_come_back_in_the_order_of_the_file(file: Path) -> None:
    session = OnnxRuntime(file, threads=1)
    names = [[spec.name for spec in specs] for specs in (session.inputs, session.outputs)]
    assert names == [["left", "right"], ["minus", "times"]]
    assert session.inputs[0].shape == ("batch", 2)
    minus, times = session([LEFT, RIGHT])
    assert torch.equal(minus, LEFT - RIGHT)
    assert torch.equal(times, LEFT * RIGHT)


def test_a_bound_call_runs_the_inputs_that_it_was_bound_to_every_time(file: Path) -> None:
    session = OnnxRuntime(file, threads=1)
    first, second = session.bound([LEFT, RIGHT]), session.bound([LEFT[:1], RIGHT[:1]])
    for _ in range(2):
        for call, left, right in ((first, LEFT, RIGHT), (second, LEFT[:1], RIGHT[:1])):
            results = call()
            assert isinstance(results, list)
            assert [torch.from_numpy(result).tolist() for result in results] == [
                (left - right).tolist(),
                (left * right).tolist(),
            ]


def test_the_number_of_threads_reaches_the_session(file: Path) -> None:
    for threads in (1, 2):
        options = OnnxRuntime(file, threads)._session.get_session_options()
        assert options.intra_op_num_threads == threads
        assert options.inter_op_num_threads == 1


def test_another_number_of_inputs_is_not_cut_to_fit(file: Path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        OnnxRuntime(file, threads=1)([LEFT])


@pytest.mark.parametrize("content", [b"", b"not a model", None], ids=["empty", "text", "truncated"])
def test_a_broken_file_is_refused_by_its_name(file: Path, content: bytes | None) -> None:
    file.write_bytes(file.read_bytes()[:-40] if content is None else content)
    with pytest.raises(ParallelizeError, match=r"^ONNX Runtime refuses small\.onnx: .") as caught:
        OnnxRuntime(file, threads=1)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_an_absent_file_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ParallelizeError, match=r"refuses none\.onnx: .*doesn't exist"):
        OnnxRuntime(tmp_path / "none.onnx", threads=1)


def test_a_machine_without_onnx_runtime_is_told_how_to_install_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EnvironmentLackError, match="ONNX Runtime is not installed") as caught:
        OnnxRuntime(file, threads=1)
    assert caught.value.hint == "pip install onnxruntime"
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(("reads", "returns", "name"), [("BFLOAT16", "FLOAT", "x"), ("FLOAT", "BFLOAT16", "y")])
def test_a_model_that_reads_or_returns_bfloat16_is_refused_when_it_is_to_run(
    reads: str, returns: str, name: str, tmp_path: Path
) -> None:
    elements = [TensorProto.DataType.Value(element) for element in (reads, returns)]
    x, y = (helper.make_tensor_value_info(n, e, ["batch", 2]) for n, e in zip("xy", elements, strict=True))
    graph = helper.make_graph([helper.make_node("Cast", ["x"], ["y"], to=elements[1])], "cast", [x], [y])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    session = OnnxRuntime(tmp_path / "m.onnx", threads=1)
    for run in (session, session.bound):
        with pytest.raises(ParallelizeError, match=f"^The model reads or returns '{name}' in bfloat16") as caught:
            run([LEFT])
        assert caught.value.hint
