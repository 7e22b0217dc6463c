"""Capture: every model becomes one flat graph with the model's own numbers, or one sentence says why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from paraformer.model import VisionConfig, VisionParaFormer
from parallelize.data.tensor_spec import TensorSpec
from parallelize.models.capture import capture, export, from_exported
from parallelize.models.program import Program
from passes.errors import ParallelizeError, PassError
from passes.graph.operators import writes_in_place

SMALL = VisionConfig(depth=2, width=16, heads=2, hidden=32)


class Function(nn.Module):
    """A module whose forward is a function of one tensor."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


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


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


@pytest.fixture(scope="module")
def vision() -> VisionParaFormer:
    torch.manual_seed(0)
    return VisionParaFormer(SMALL).eval()


@pytest.fixture(scope="module")
def program(vision: VisionParaFormer) -> Program:
    return capture(vision, (torch.zeros(1, 1, 28, 28),), origin="small.pt")


def _of(function: Callable[..., Any], *shape: int, **options: Any) -> Program:
    return capture(Function(function).eval(), (torch.rand(*shape),), origin="it", **options)


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
    program = _of(lambda x: Answer(x * 2), 2, 4)
    assert [spec.name for spec in program.outputs] == ["logits"]
    x = torch.rand(3, 4)
    assert torch.equal(program.flat_outputs(program.module(x))[0], x * 2)
    assert torch.equal(program.flat_outputs(Answer(x * 2))[0], x * 2)


def test_outputs_are_named_after_the_fields_of_a_named_tuple() -> None:
    assert [spec.name for spec in _of(lambda x: Pair(x, x + 1), 2, 4).outputs] == ["left", "right"]


def test_outputs_of_a_tuple_are_numbered() -> None:
    assert [spec.name for spec in _of(lambda x: (x + 1, x + 2), 2, 4).outputs] == ["output_0", "output_1"]


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
    program = _of(lambda x: x.flatten(1) @ torch.ones(15, 2), 3, 3, 5)
    assert program.inputs[0].shape == ("batch", 3, 5)
    assert program.outputs[0].shape == ("batch", 2)


def test_a_dimension_with_a_largest_size_is_still_free() -> None:
    table = torch.rand(16, 4)
    program = _of(lambda x: x + table[: x.shape[1]], 2, 7, 4, dynamic=[{0: "batch", 1: "tokens"}])
    assert program.inputs[0].shape == ("batch", "tokens", 4)
    assert program.module(torch.zeros(1, 11, 4)).shape == (1, 11, 4)


def test_derived_sizes_are_expressions_of_names() -> None:
    program = _of(lambda x: torch.cat([x, x]), 2, 4)
    assert program.outputs[0].shape == ("2*batch", 4)
    assert program.outputs[0].sizes({"batch": 5}) == (10, 4)


def test_without_free_dimensions_every_size_is_a_number() -> None:
    program = _of(lambda x: x + 1, 1, 4, dynamic=None)
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


def test_regions_that_switch_gradients_or_autocasting_off_are_opened() -> None:
    def forward(x: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            y = x.float() * 2
        with torch.enable_grad():
            return y + x

    program = _of(forward, 2, 4)
    assert "mul" in {node.name for node in _calls(program)}
    assert not [node for node in _calls(program) if isinstance(node.target, torch._ops.HigherOrderOperator)]
    assert torch.equal(program.module(torch.ones(1, 4)), torch.full((1, 4), 3.0))


def test_export_keeps_shapes_names_and_numbers_of_a_saved_program(program: Program, tmp_path: Path) -> None:
    torch.export.save(export(program), tmp_path / "model.pt2")
    loaded = from_exported(torch.export.load(tmp_path / "model.pt2"), "model.pt2")
    assert (loaded.inputs, loaded.outputs) == (program.inputs, program.outputs)
    images = torch.rand(1, 1, 28, 28)
    assert torch.equal(loaded.module(images), program.module(images))
    assert export(loaded).graph_signature.user_inputs == ("images",)


def test_export_refuses_a_rewrite_that_fixes_the_batch() -> None:
    program = _of(lambda x: x * 2, 2, 4)
    (node,) = _calls(program)
    node.target, node.args = torch.ops.aten.view.default, (node.args[0], [3, 4])
    program.module.recompile()
    with pytest.raises(PassError, match=r"fixed the input 'x': \('batch', 4\) is now \(3, 4\)\."):
        export(program)


def test_a_guarded_module_gives_no_guard_nodes(program: Program) -> None:
    assert not [node for node in program.module.graph.nodes if node.op == "call_module"]


def _refusal(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(ParallelizeError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message, caught.value.hint


def test_training_mode_is_refused_with_the_first_module_in_it(vision: VisionParaFormer) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout()).eval()
    model[1].train()
    message, hint = _refusal(lambda: capture(model, (torch.zeros(2, 4),), origin="m"))
    assert message == "m cannot be captured: its module '1' is in training mode."
    assert ".eval()" in hint


def test_a_program_exported_in_training_mode_is_refused() -> None:
    exported = torch.export.export(nn.Sequential(nn.Dropout()).train(), (torch.zeros(2, 4),))
    message, _ = _refusal(lambda: from_exported(exported, "m.pt2"))
    assert message == "m.pt2 was exported in training mode: the operation dropout behaves as in training."


def test_a_wrong_input_shape_is_told_as_such(vision: VisionParaFormer) -> None:
    message, hint = _refusal(lambda: capture(vision, (torch.zeros(1, 3, 28, 28),), origin="small.pt"))
    assert message.startswith("small.pt does not run on an input of 5x3x28x28@float32: RuntimeError: ")
    assert "expected input[5, 3, 28, 28] to have 1 channels" in message
    assert f"({Path(__file__).parents[3] / 'paraformer/model.py'}:" in message
    assert "--input" in hint


def test_control_flow_on_values_is_refused_with_its_line() -> None:
    def forward(x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x

    line = forward.__code__.co_firstlineno + 1
    message, hint = _refusal(lambda: _of(forward, 2, 4))
    assert message.startswith("torch.export cannot capture it: Could not guard on data-dependent expression")
    assert message.endswith(f"({__file__}:{line}).")
    assert "torch.cond" in hint


def test_a_fixed_batch_is_refused_with_its_size() -> None:
    message, hint = _refusal(lambda: _of(lambda x: x.reshape(-1, 4)[: x.shape[0]] + x.expand(3, 4), 2, 4))
    assert message == "it fixes dimension 0 ('batch') of its input 'x' to 3."
    assert "fixed size" in hint


def test_a_model_that_treats_small_batches_otherwise_is_refused() -> None:
    message, _ = _refusal(lambda: _of(lambda x: x * 2 if x.shape[0] > 2 else x, 2, 4))
    assert message == "it takes another path when dimension 0 ('batch') of its input 'x' is below 3."


def test_no_tensor_and_the_wrong_number_of_dimensions_are_refused() -> None:
    model = Function(F.relu).eval()
    assert _refusal(lambda: capture(model, (), origin="it"))[0] == "it got no tensor to read."
    message, _ = _refusal(lambda: capture(model, (torch.zeros(2, 2),), dynamic=[{}, {}], origin="it"))
    assert message == "it reads 1 tensors, but free dimensions are given for 2."


def test_a_failed_capture_writes_nothing_to_the_log_and_leaves_the_model_alone(
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = Function(lambda x: F.linear(x, torch.ones(3, 5))).eval()
    _refusal(lambda: capture(model, (torch.zeros(2, 4),)))
    assert capfd.readouterr() == ("", "")
    assert not model._forward_hooks


# ------------------------------------------------------------------------------------------------- writes in place


class Writes(nn.Module):
    """In-place activation, sum, slice and dropout, a batch norm, and a region without gradients around a write."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.relu = nn.Linear(8, 8), nn.BatchNorm1d(4), nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.5, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        state = self.relu(self.norm(self.linear(x)))
        state += x
        with torch.no_grad():
            state.mul_(2.0)
        hidden = self.dropout(F.gelu(state))
        hidden[:, 0] = 0
        return state + hidden


def test_a_model_that_writes_in_place_becomes_a_functional_graph_with_its_numbers() -> None:
    torch.manual_seed(0)
    model = Writes().eval()
    program = capture(model, (torch.randn(2, 4, 8),))
    assert not any(writes_in_place(node) for node in program.module.graph.nodes)
    targets = [str(node.target) for node in program.module.graph.nodes]
    assert "aten.batch_norm.default" in targets
    assert "aten.linear.default" in targets
    for batch in (1, 5):
        x = torch.randn(batch, 4, 8)
        torch.testing.assert_close(program.module(x), model(x.clone()))


def test_an_input_that_the_model_overwrites_is_left_as_it_was() -> None:
    program = capture(Function(lambda x: x.mul_(2) + 1).eval(), (torch.ones(2, 3),))
    x = torch.ones(4, 3)
    assert torch.equal(program.module(x), torch.full((4, 3), 3.0))
    assert torch.equal(x, torch.ones(4, 3))


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


def test_a_model_that_changes_a_buffer_is_refused_by_the_name_of_the_buffer() -> None:
    with pytest.raises(ParallelizeError, match=r"changes its buffer 'calls' when it runs\.$") as caught:
        capture(Counts().eval(), (torch.ones(2, 3),))
    assert "Leave counters and caches out of forward" in caught.value.hint
