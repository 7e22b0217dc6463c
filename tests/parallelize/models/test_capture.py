"""Capture: every model becomes one flat graph with the model's own numbers, shapes and names."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from paraformer.model import VisionParaFormer
from parallelize.data.tensor_spec import TensorSpec
from parallelize.models.capture import capture, export, from_exported
from parallelize.models.program import Program
from passes.errors import PassError
from tests.parallelize.models.captured import of_function


class Nested(nn.Module):
    """Two inputs by name, one of them in a dictionary of lists; outputs of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.register_buffer("offset", torch.ones(8))

    def forward(self, ids: Tensor, *, extra: dict[str, list[Tensor]], double: bool = False) -> dict[str, Any]:
        state = self.embedding(ids) + self.offset + extra["bias"][0][:, None]
        return {"logits": state * 2 if double else state, "nothing": None, "hidden": [state, state + 1], "count": 3}


@dataclass
class Answer:
    logits: Tensor
    loss: Tensor | None = None


@pytest.fixture(scope="module")
def program(vision: VisionParaFormer) -> Program:
    return capture(vision, (torch.zeros(1, 1, 28, 28),), origin="small.pt")


def test_a_program_computes_what_the_model_computes_at_every_batch_size(
    vision: VisionParaFormer, program: Program
) -> None:
    for batch in (1, 2, 5):
        images = torch.rand(batch, 1, 28, 28) * 255
        assert torch.equal(program.module(images), vision(images))


def test_specs_name_the_input_the_output_and_the_free_batch(program: Program) -> None:
    assert program.inputs == (TensorSpec("images", ("batch", 1, 28, 28), torch.float32),)
    assert program.outputs == (TensorSpec("output", ("batch", 10), torch.float32),)
    assert program.origin == "small.pt"


def test_the_graph_is_parameters_then_inputs_then_aten_operations_with_shapes_everywhere(program: Program) -> None:
    kinds = [node.op for node in program.module.graph.nodes]
    order = ["get_attr", "placeholder", "call_function", "output"]
    assert kinds == sorted(kinds, key=order.index)
    assert all("val" in node.meta for node in program.module.graph.nodes)
    assert all(isinstance(n.target, torch._ops.OpOverload) or n.target.__name__ == "getitem" for n in _calls(program))


def _calls(program: Program) -> list[fx.Node]:
    return [node for node in program.module.graph.nodes if node.op == "call_function"]


def test_linear_norm_and_attention_stay_whole(program: Program) -> None:
    names = [node.target.name() for node in _calls(program) if isinstance(node.target, torch._ops.OpOverload)]
    assert names.count("aten::linear") == 9
    assert names.count("aten::layer_norm") == 5
    assert names.count("aten::scaled_dot_product_attention") == 2


def test_nodes_keep_the_paths_of_their_modules(program: Program) -> None:
    paths = [path for node in _calls(program) for path, _ in node.meta.get("nn_module_stack", {}).values()]
    assert "blocks.1.attention" in paths


def test_nested_inputs_become_tensors_in_order_and_constants_vanish() -> None:
    model = Nested().eval()
    ids, bias = torch.randint(0, 50, (1, 6)), torch.rand(1, 8)
    dims = [{0: "batch", 1: "tokens"}, {0: "batch"}]
    program = capture(model, (ids,), {"extra": {"bias": [bias]}, "double": True}, dynamic=dims, origin="nested")
    assert [(spec.name, spec.shape, spec.dtype) for spec in program.inputs] == [
        ("ids", ("batch", "tokens"), torch.int64),
        ("extra_bias_0", ("batch", 8), torch.float32),
    ]
    assert [(spec.name, spec.shape) for spec in program.outputs] == [
        ("logits", ("batch", "tokens", 8)),
        ("hidden_0", ("batch", "tokens", 8)),
        ("hidden_1", ("batch", "tokens", 8)),
    ]
    ids, bias = torch.randint(0, 50, (4, 9)), torch.rand(4, 8)
    expected = program.flat_outputs(model(ids, extra={"bias": [bias]}, double=True))
    for have, want in zip(program.flat_outputs(program.module(ids, bias)), expected, strict=True):
        assert torch.equal(have, want)


def test_outputs_are_named_after_dataclass_fields_and_absent_ones_are_skipped() -> None:
    program = of_function(lambda x: Answer(x * 2), 2, 4)
    assert [spec.name for spec in program.outputs] == ["logits"]
    x = torch.rand(3, 4)
    assert torch.equal(program.flat_outputs(program.module(x))[0], x * 2)
    assert torch.equal(program.flat_outputs(Answer(x * 2))[0], x * 2)


def test_a_result_with_another_number_of_tensors_is_refused(program: Program) -> None:
    with pytest.raises(PassError, match=r"small.pt returned 2 tensors where 1 were captured\."):
        program.flat_outputs((torch.zeros(1), torch.zeros(1)))


def test_one_tensor_passed_twice_gives_two_inputs() -> None:
    class Sum(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a + 2 * b

    x = torch.rand(2, 3)
    program = capture(Sum().eval(), (x, x))
    assert [spec.shape for spec in program.inputs] == [("batch", 3), ("batch", 3)]
    assert torch.equal(program.module(torch.ones(1, 3), torch.zeros(1, 3)), torch.ones(1, 3))


def test_inputs_that_never_meet_still_share_the_batch_after_saving(tmp_path: Path) -> None:
    class Apart(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            return a + 1, b * 2

    program = capture(Apart().eval(), (torch.zeros(2, 3), torch.zeros(2, 5)))
    torch.export.save(export(program), tmp_path / "apart.pt2")
    loaded = from_exported(torch.export.load(tmp_path / "apart.pt2"), "apart.pt2")
    assert [spec.shape for spec in loaded.inputs] == [("batch", 3), ("batch", 5)]


def test_only_first_axes_as_long_as_the_first_tensors_are_batches() -> None:
    class Anchored(nn.Module):
        def forward(self, x: Tensor, anchors: Tensor, scale: Tensor) -> Tensor:
            return (x @ anchors.T) * scale

    program = capture(Anchored().eval(), (torch.zeros(1, 4), torch.zeros(6, 4), torch.tensor(2.0)))
    assert [spec.shape for spec in program.inputs] == [("batch", 4), (6, 4), ()]


def test_a_size_equal_to_the_example_batch_stays_a_number() -> None:
    program = of_function(lambda x: x.flatten(1) @ torch.ones(15, 2), 3, 3, 5)
    assert program.inputs[0].shape == ("batch", 3, 5)
    assert program.outputs[0].shape == ("batch", 2)


def test_a_dimension_with_a_largest_size_is_still_free() -> None:
    table = torch.rand(16, 4)
    program = of_function(lambda x: x + table[: x.shape[1]], 2, 7, 4, dynamic=[{0: "batch", 1: "tokens"}])
    assert program.inputs[0].shape == ("batch", "tokens", 4)
    assert program.module(torch.zeros(1, 11, 4)).shape == (1, 11, 4)


def test_derived_sizes_are_expressions_of_names() -> None:
    program = of_function(lambda x: torch.cat([x, x]), 2, 4)
    assert program.outputs[0].shape == ("2*batch", 4)
    assert program.outputs[0].sizes({"batch": 5}) == (10, 4)


def test_without_free_dimensions_every_size_is_a_number() -> None:
    program = of_function(lambda x: x + 1, 1, 4, dynamic=None)
    assert program.inputs[0].shape == (1, 4)
    assert program.inputs[0].dimensions == ()


def test_what_no_output_needs_is_not_in_the_program_and_its_inputs_stay() -> None:
    class Coupled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            y + self.unused(y)
            return x + self.used(x)

    module = capture(Coupled().eval(), (torch.zeros(3, 4), torch.zeros(3, 4))).module
    read = [node.target for node in module.graph.find_nodes(op="get_attr")]
    assert read == ["used.weight", "used.bias"]
    assert [node.target for node in module.graph.find_nodes(op="placeholder")] == ["x", "y"]


def test_export_keeps_shapes_names_and_numbers_of_a_saved_program(program: Program, tmp_path: Path) -> None:
    torch.export.save(export(program), tmp_path / "model.pt2")
    loaded = from_exported(torch.export.load(tmp_path / "model.pt2"), "model.pt2")
    assert (loaded.inputs, loaded.outputs) == (program.inputs, program.outputs)
    images = torch.rand(1, 1, 28, 28)
    assert torch.equal(loaded.module(images), program.module(images))
    assert export(loaded).graph_signature.user_inputs == ("images",)


def test_export_refuses_a_rewrite_that_fixes_the_batch() -> None:
    program = of_function(lambda x: x * 2, 2, 4)
    (node,) = _calls(program)
    node.target, node.args = torch.ops.aten.view.default, (node.args[0], [3, 4])
    program.module.recompile()
    with pytest.raises(PassError, match=r"fixed the input 'x': \('batch', 4\) is now \(3, 4\)\."):
        export(program)


def test_a_guarded_module_gives_no_guard_nodes(program: Program) -> None:
    assert not [node for node in program.module.graph.nodes if node.op == "call_module"]


class Branching(nn.Module):
    """(batch, 4) -> (batch, 4), one of two linears by the sign of the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        chosen: Tensor = torch.cond(x.sum() > 0, lambda y: self.first(y).relu(), self.second, (x,))
        return x + chosen


def test_a_model_with_branches_goes_when_its_program_goes() -> None:
    model = Branching().eval()
    weight = weakref.ref(model.first.weight)
    program = capture(model, (torch.zeros(2, 4),))
    export(program)
    assert weight() is not None
    del model, program
    gc.collect()
    assert weight() is None
