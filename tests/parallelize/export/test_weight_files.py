"""Weights lie inside an ONNX file, beside it, or in a file that several read; the same numbers come out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from parallelize.backends.onnxruntime.session import OnnxRuntime
from parallelize.export import weight_files
from parallelize.export.onnx import write_onnx
from parallelize.export.onnx_file import read_onnx
from parallelize.export.weight_files import SharedWeights, gathered, size_of
from parallelize.models.capture import capture
from parallelize.models.program import Program
from passes.errors import ParallelizeError
from passes.graph.editing import clone
from passes.graph.parameters import read_parameter, replace_parameter
from tests.parallelize.small_models import images, vision

PIXELS = images(3, 0).arrays["images"]


class Branching(nn.Module):
    """(batch, 3, 24) -> the same, one of two linears by the sign of the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(24, 24), nn.Linear(24, 24)

    def forward(self, x: Tensor) -> Tensor:
        chosen: Tensor = torch.cond(x.sum() > 0, lambda y: self.first(y).relu(), self.second, (x,))
        return x + chosen


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a network, of the same one again, and of one with another weight, which share weights."""
    folder, shared = tmp_path_factory.mktemp("shared"), SharedWeights()
    write_onnx(vision(2), folder / "first.onnx", shared=shared)
    write_onnx(vision(2), folder / "same.onnx", shared=shared)
    write_onnx(_with_another_weight(vision(2)), folder / "other.onnx", shared=shared)
    return folder


def _with_another_weight(program: Program) -> Program:
    module = clone(program.module)
    linear = next(node for node in module.graph.nodes if "linear" in str(node.target))
    replace_parameter(module, linear, 1, "other", 2 * read_parameter(module, linear.args[1]))
    return replace(program, module=module)


def _run(path: Path, inputs: Tensor = PIXELS) -> Tensor:
    (output,) = OnnxRuntime(path, 1)([inputs])
    return output


def test_what_the_first_file_has_is_not_written_again(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "first.onnx",
        "first.onnx.data",
        "same.onnx",
        "other.onnx",
        "other.onnx.data",
    }
    assert (folder / "other.onnx.data").stat().st_size == 3 * 16 * 16 * 4  # queries, keys and values
    assert size_of(folder / "same.onnx") == size_of(folder / "first.onnx")


def test_files_that_share_weights_compute_what_their_graphs_do(folder: Path) -> None:
    expected = vision(2).module(PIXELS)
    torch.testing.assert_close(_run(folder / "first.onnx"), expected)
    assert torch.equal(_run(folder / "first.onnx"), _run(folder / "same.onnx"))
    torch.testing.assert_close(_run(folder / "other.onnx"), _with_another_weight(vision(2)).module(PIXELS))


@pytest.mark.parametrize(("limit", "files"), [(1 << 20, {"whole.onnx"}), (64, {"whole.onnx", "whole.onnx.data"})])
def test_a_file_that_is_gathered_is_whole(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, files: set[str]
) -> None:
    monkeypatch.setattr(weight_files, "INLINE_LIMIT", limit)
    gathered(folder / "other.onnx", tmp_path / "whole.onnx")
    assert {path.name for path in tmp_path.iterdir()} == files
    onnx.checker.check_model(str(tmp_path / "whole.onnx"), full_check=True)
    assert torch.equal(_run(tmp_path / "whole.onnx"), _run(folder / "other.onnx"))


def test_weights_of_branches_of_control_flow_lie_beside_the_file_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_files, "INLINE_LIMIT", 64)
    torch.manual_seed(0)
    program = capture(Branching().eval(), (torch.zeros(2, 3, 24),), origin="branching")
    path = tmp_path / "b.onnx"
    write_onnx(program, path)
    assert path.stat().st_size < 2 * 24 * 24 * 4 <= (tmp_path / "b.onnx.data").stat().st_size
    for inputs in (torch.ones(2, 3, 24), -torch.ones(2, 3, 24)):
        torch.testing.assert_close(_run(path, inputs), program.module(inputs))


def test_weights_inside_a_branch_that_lie_in_a_missing_file_are_refused(tmp_path: Path) -> None:
    helper, kind = onnx.helper, onnx.TensorProto
    weight = onnx.TensorProto(name="w", data_type=kind.FLOAT, dims=[2], data_location=kind.EXTERNAL)
    weight.external_data.add(key="location", value="gone.data")
    value = helper.make_tensor_value_info("y", kind.FLOAT, [2])
    branch = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "branch", [], [value], [weight])
    node = helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    inputs = [helper.make_tensor_value_info("c", kind.BOOL, [])]
    graph = helper.make_graph([node], "main", inputs, [helper.make_tensor_value_info("z", kind.FLOAT, [2])])
    path = tmp_path / "a.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(ParallelizeError, match=r"^a.onnx keeps weights in gone.data, which is missing.$"):
        read_onnx(path)
