"""ONNX files: checked, of any batch, with the names and the operators of the graph, and the graph's numbers."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from parallelize.backends.onnxruntime.session import OnnxRuntime
from parallelize.export.onnx import OPSET, write_onnx
from parallelize.export.onnx_file import read_onnx
from parallelize.models.capture import capture
from parallelize.models.clean import clean
from parallelize.models.program import Program
from parallelize.refitting.refit import refit
from passes.errors import ParallelizeError
from passes.fusion.fuse_width import FuseWidth
from passes.graph import measures
from passes.graph.outputs import flat_outputs
from passes.runner import run_passes
from tests.parallelize.small_models import images, pairs, vision
from tests.sampled import sampled


class TwoInputs(nn.Module):
    """Token numbers and a mask of one free length -> two outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, ids: Tensor, weights: Tensor) -> dict[str, Tensor]:
        state = self.norm(self.embedding(ids)) * weights[..., None]
        return {"states": state, "total": state.sum((1, 2))}


class BiasedAttention(nn.Module):
    """Attention with a learned bias of the scores, as T5, BEiT and Swin have it, on (batch, 5, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.bias = nn.Embedding(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).view(x.shape[0], 5, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        places = torch.arange(5)
        bias = self.bias((places[:, None] - places).abs()).permute(2, 0, 1)[None]
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return mixed.transpose(1, 2).contiguous().reshape(x.shape[0], 5, -1).contiguous()


def _program(kind: str) -> Program:
    if kind == "serial":
        return vision()
    if kind == "two inputs":
        torch.manual_seed(0)
        example = torch.zeros(2, 5, dtype=torch.int64), torch.ones(2, 5)
        dims = [{0: "batch", 1: "tokens"}] * 2
        return capture(TwoInputs().eval(), example, dynamic=dims, origin="two")
    refitted = refit(vision().module, pairs("full"), images(60, 0), images(30, 1)).module
    module, _ = run_passes(refitted, [FuseWidth()])
    return Program(module, vision().inputs, vision().outputs, "rewritten")


@pytest.fixture(scope="module", params=sampled(["rewritten and fused", "serial"], 2))
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, Path]:
    program = _program(request.param)
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    write_onnx(program, path)
    return program, path


def test_the_checker_passes_a_file_of_the_opset(written: tuple[Program, Path]) -> None:
    _, path = written
    onnx.checker.check_model(str(path), full_check=True)
    opsets = {entry.domain: entry.version for entry in onnx.load(path).opset_import}
    assert opsets[""] == OPSET >= 18


def test_the_file_computes_what_the_graph_computes_at_every_batch_size(written: tuple[Program, Path]) -> None:
    program, path = written
    session = OnnxRuntime(path, threads=1)
    for batch in (1, 3, 8):
        inputs = (images(batch, seed=batch).arrays["images"],)
        expected = flat_outputs(program.module, inputs)
        results = session(inputs)
        assert [result.shape for result in results] == [(batch, 10)]
        torch.testing.assert_close(results, expected, rtol=0, atol=1e-4)


def test_each_layer_norm_of_the_graph_is_one_operator(written: tuple[Program, Path]) -> None:
    program, path = written
    norms = program.module.graph.find_nodes(op="call_function", target=torch.ops.aten.layer_norm.default)
    different = {str(node.args) for node in norms}  # the exporter merges equal ones
    file = read_onnx(path).operators
    assert file["LayerNormalization"] == len(different) >= 5
    assert file["ReduceMean"] == measures.operator_counts(program.module)["aten.mean.dim"] == 1
    assert "Sqrt" not in file


def test_inputs_and_outputs_keep_their_names_types_and_free_batch(written: tuple[Program, Path]) -> None:
    program, path = written
    graph = onnx.load(path).graph
    for values, specs in ((graph.input, program.inputs), (graph.output, program.outputs)):
        assert [value.name for value in values] == [spec.name for spec in specs]
        for value, spec in zip(values, specs, strict=True):
            assert _shape(value) == spec.shape
            assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def _shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim)


def test_no_node_carries_notes_of_the_exporter_or_paths_of_this_machine(written: tuple[Program, Path]) -> None:
    _, path = written
    for node in onnx.load(path).graph.node:
        assert [entry.key for entry in node.metadata_props if entry.key.startswith("pkg.torch")] == []
    content = path.read_bytes()
    for word in (b"site-packages", b"stack_trace", str(Path(__file__).parents[3]).encode()):
        assert word not in content


def test_weights_are_in_the_file_itself(written: tuple[Program, Path]) -> None:
    program, path = written
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    assert path.stat().st_size > 4 * measures.parameter_count(program.module)


def test_several_inputs_and_outputs_and_all_their_free_dimensions_are_kept(tmp_path: Path) -> None:
    program = _program("two inputs")
    write_onnx(program, tmp_path / "two.onnx")
    graph = onnx.load(tmp_path / "two.onnx").graph
    assert {value.name: _shape(value) for value in (*graph.input, *graph.output)} == {
        "ids": ("batch", "tokens"),
        "weights": ("batch", "tokens"),
        "states": ("batch", "tokens", 8),
        "total": ("batch",),
    }
    session = OnnxRuntime(tmp_path / "two.onnx", threads=1)
    for shape in ((1, 1), (3, 4), (2, 9)):
        inputs = torch.randint(0, 11, shape), torch.rand(shape)
        torch.testing.assert_close(session(inputs), flat_outputs(program.module, inputs), rtol=0, atol=1e-5)


def test_a_number_less_a_mask_of_integers_is_written_once_it_is_cleaned(tmp_path: Path) -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return x * (1.0 - mask[..., None])

    x, mask = torch.randn(3, 4, 2), torch.tensor([[0, 1, 1, 0]] * 3)
    program, _ = clean(capture(Masked().eval(), (x, mask)))
    write_onnx(program, tmp_path / "masked.onnx")
    (found,) = OnnxRuntime(tmp_path / "masked.onnx", threads=1)((x, mask))
    torch.testing.assert_close(found, Masked()(x, mask))


def test_the_names_are_those_of_the_program_and_not_of_its_nodes(tmp_path: Path) -> None:
    program = _program("two inputs")
    renamed = replace(program, inputs=tuple(replace(spec, name=f"my_{spec.name}") for spec in program.inputs))
    write_onnx(renamed, tmp_path / "two.onnx")
    inputs = OnnxRuntime(tmp_path / "two.onnx", threads=1).inputs
    assert [spec.name for spec in inputs] == ["my_ids", "my_weights"]


@pytest.mark.slow
def test_a_higher_opset_can_be_asked_for(tmp_path: Path) -> None:
    write_onnx(_program("two inputs"), tmp_path / "two.onnx", opset=20)
    assert onnx.load(tmp_path / "two.onnx").opset_import[0].version == 20


class Biased(nn.Module):
    """Attention whose mask is a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.rand(1, 2, 5, 5))

    def forward(self, x: Tensor) -> Tensor:
        heads = x.view(x.shape[0], 5, 2, 4).transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(heads, heads, heads, attn_mask=self.bias)
        return mixed.transpose(1, 2).reshape(x.shape[0], 5, 8)


@pytest.mark.slow
def test_attention_with_a_mask_that_is_a_parameter_is_written_and_the_parameter_still_learns(tmp_path: Path) -> None:
    program = capture(Biased().eval(), (torch.rand(2, 5, 8),), origin="biased")
    write_onnx(program, tmp_path / "biased.onnx")
    inputs = (torch.rand(3, 5, 8),)
    results = OnnxRuntime(tmp_path / "biased.onnx", threads=1)(inputs)
    torch.testing.assert_close(results, flat_outputs(program.module, inputs), rtol=0, atol=1e-5)
    assert all(parameter.requires_grad for parameter in program.module.parameters())


class Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


def test_an_operator_without_an_onnx_form_is_refused_in_one_sentence(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(Bessel()))
    program = capture(model.eval(), (torch.rand(2, 3),), origin="bessel")
    with pytest.raises(ParallelizeError) as caught:
        write_onnx(program, tmp_path / "bessel.onnx")
    message = str(caught.value)
    assert message.startswith(f"The operator aten.special_bessel_j0 in 1.0 ({__file__}:")
    assert message.endswith(" of bessel has no ONNX form (as prims.bessel_j0).")
    assert "Write that part" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_the_checker_refuses_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []

    def refuse(path: str, *, full_check: bool) -> None:
        checked.append(path)
        assert full_check
        raise onnx.checker.ValidationError("Nodes in a graph must be topologically sorted")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(ParallelizeError, match="The ONNX checker refuses the exported model: Nodes in a graph"):
        write_onnx(_program("two inputs"), tmp_path / "two.onnx")
    assert checked == [str(tmp_path / "two.onnx")]


def test_the_exporter_says_nothing_and_its_loggers_are_left_as_they_were(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    export = torch.onnx.export

    def chatter(*args: Any, **options: Any) -> object:
        print("step 1 of 3")  # noqa: T201
        logging.getLogger("onnxscript").warning("step 2 of 3")
        return export(*args, **options)

    monkeypatch.setattr(torch.onnx, "export", chatter)
    logger = logging.getLogger("onnxscript")
    before = logger.level
    logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            write_onnx(_program("two inputs"), tmp_path / "two.onnx")
        assert logger.level == logging.INFO
    finally:
        logger.setLevel(before)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_operators_are_counted_the_most_frequent_first(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])
    result = onnx.helper.make_tensor_value_info("d", onnx.TensorProto.FLOAT, [2])
    names = ["x", "a", "b", "c", "d"]
    operators = ["Neg", "Exp", "Neg", "Neg"]
    nodes = [onnx.helper.make_node(op, [names[i]], [names[i + 1]]) for i, op in enumerate(operators)]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "four", [value], [result])), tmp_path / "four.onnx")
    counts = read_onnx(tmp_path / "four.onnx").operators
    assert list(counts.items()) == [("Neg", 3), ("Exp", 1)]


@pytest.mark.slow
def test_attention_with_a_learned_bias_is_written(tmp_path: Path) -> None:
    program = capture(BiasedAttention().eval(), (torch.zeros(2, 5, 8),))
    write_onnx(program, tmp_path / "model.onnx")
    states = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(1))
    (actual,) = OnnxRuntime(tmp_path / "model.onnx", threads=1)([states])
    assert torch.allclose(actual, flat_outputs(program.module, [states])[0], atol=1e-5)


class Returning(nn.Module):
    """Returns an input, a weight, one value twice, and a value under the name of an input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(3, 3), nn.Parameter(torch.ones(3))

    def forward(self, hidden: Tensor, mask: Tensor) -> dict[str, Tensor]:
        y = self.layer(hidden)
        return {"hidden": y, "mask": mask, "scale": self.scale, "again": y, "linear": y * 2, "mask_out": y + 1}


def test_outputs_keep_their_values_and_get_names_of_their_own(tmp_path: Path) -> None:
    program = capture(Returning().eval(), (torch.rand(2, 3), torch.rand(2, 3)), origin="returning")
    assert [spec.name for spec in program.outputs] == ["hidden", "mask", "scale", "again", "linear", "mask_out"]
    write_onnx(program, tmp_path / "m.onnx")
    session = OnnxRuntime(tmp_path / "m.onnx", threads=1)
    assert [spec.name for spec in session.inputs] == ["hidden", "mask"]
    names = ["hidden_out", "mask_out", "scale", "again", "linear", "mask_out_1"]
    assert [spec.name for spec in session.outputs] == names
    inputs = (torch.rand(5, 3), torch.rand(5, 3))
    torch.testing.assert_close(session(inputs), flat_outputs(program.module, inputs), rtol=0, atol=1e-6)
