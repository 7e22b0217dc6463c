"""An exported program as one flat graph: regions are open, outputs have names, what inference does not need is gone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from parallelize.models.flatten import flatten
from passes.errors import ParallelizeError
from passes.graph.operators import aten, writes_in_place
from tests.parallelize.models.captured import Function

X = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))


def flat(model: nn.Module | Callable[[Tensor], Any]) -> tuple[fx.GraphModule, dict[str, fx.Node]]:
    module = model if isinstance(model, nn.Module) else Function(model)
    return flatten(torch.export.export(module.eval(), (X,), strict=False))


def names(model: Callable[[Tensor], Any]) -> list[str]:
    return list(flat(model)[1])


class Regions(nn.Module):
    """A constant, a buffer that is not saved, and layers in regions without gradients and without autocasting."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)
        self.register_buffer("offset", torch.ones(6), persistent=False)
        self.table = torch.arange(6.0)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.inner(x) + self.offset
        with torch.autocast("cpu", enabled=False):
            z = y * self.table
        with torch.enable_grad():
            return z + x


def test_parameters_buffers_and_constants_are_attributes_and_regions_without_effect_are_open() -> None:
    model = Regions()
    module, outputs = flat(model)
    assert torch.equal(module(X), model(X))
    assert {str(node.target) for node in module.graph.find_nodes(op="get_attr")} == {
        "inner.weight",
        "inner.bias",
        "offset",
        "table",
    }
    operators = [node.target for node in module.graph.nodes if node.op == "call_function"]
    assert operators == [aten.linear.default, aten.add.Tensor, aten.mul.Tensor, aten.add.Tensor]
    assert [*outputs] == ["output"]
    assert all(node.meta["val"] is not None for node in module.graph.nodes)


def test_casts_of_autocasting_are_written_out() -> None:
    def forward(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return x @ x.transpose(1, 2)

    module, _ = flat(forward)
    assert not any(isinstance(node.target, torch._ops.HigherOrderOperator) for node in module.graph.nodes)
    assert module(X).dtype == torch.bfloat16
    assert torch.equal(module(X), forward(X))


class Writes(nn.Module):
    """In-place activation, sum, slice and dropout, a batch norm, and a region without gradients around a write."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.relu = nn.Linear(6, 6), nn.BatchNorm1d(4), nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.5, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        state = self.relu(self.norm(self.linear(x)))
        state += x
        with torch.no_grad():
            state.mul_(2.0)
        hidden = self.dropout(F.gelu(state))
        hidden[:, 0] = 0
        return (state + hidden).view(2, -1)


def test_writes_in_place_become_values_and_batch_norm_and_linear_stay_one_operator_each() -> None:
    model = Writes().eval()
    module, _ = flat(model)
    operators = [node.target for node in module.graph.nodes]
    assert not any(writes_in_place(node) for node in module.graph.nodes)
    assert (operators.count(aten.batch_norm.default), operators.count(aten.linear.default)) == (1, 1)
    assert aten.view.default not in operators
    torch.testing.assert_close(module(X), model(X.clone()))


def test_an_input_that_is_overwritten_is_left_as_it_was() -> None:
    module, _ = flat(lambda x: x.mul_(2) + 1)
    x = X.clone()
    assert torch.equal(module(x), 2 * X + 1)
    assert torch.equal(x, X)


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


def test_a_buffer_that_changes_is_refused_by_its_name() -> None:
    with pytest.raises(ParallelizeError, match=r"^The model changes its buffer 'calls' when it runs\.$") as caught:
        flat(Counts())
    assert caught.value.hint == "Leave counters and caches out of forward in eval mode."


@dataclass
class Answer:
    logits: Tensor
    loss: Tensor | None = None


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


torch.export.register_dataclass(Answer, serialized_type_name="tests.flatten.Answer")


@pytest.mark.parametrize(
    ("forward", "expected"),
    [
        (lambda x: x + 1, ["output"]),
        (lambda x: [x + 1, None, 3], ["output"]),
        (lambda x: (x + 1, (x + 2, x + 3)), ["output_0", "output_1", "output_2"]),
        (lambda x: {"logits": x + 1, "hidden": [x + 2, x + 3]}, ["logits", "hidden_0", "hidden_1"]),
        (lambda x: [{"a": x + 1}, {"a": x + 2}], ["a", "a_1"]),
        (lambda x: {"a.b/c": x + 1, "d": {"e": x + 2}}, ["a_b_c", "d_e"]),
        (lambda x: Pair(x + 1, x + 2), ["left", "right"]),
        (lambda x: {"pair": Pair(x + 1, x + 2)}, ["pair_left", "pair_right"]),
        (lambda x: Answer(x + 1), ["logits"]),
    ],
)
def test_outputs_are_named_by_keys_and_fields_else_numbered(
    forward: Callable[[Tensor], Any], expected: list[str]
) -> None:
    assert names(forward) == expected


def test_a_tensor_stays_bare_names_give_a_dictionary_and_the_rest_is_a_tuple() -> None:
    assert isinstance(flat(lambda x: x + 1)[0](X), Tensor)
    assert [*flat(lambda x: Pair(x + 1, x + 2))[0](X)] == ["left", "right"]
    result = flat(lambda x: [x + 1, x + 2])[0](X)
    assert isinstance(result, tuple)
    assert torch.equal(result[1], X + 2)


def test_an_input_that_is_returned_and_a_tensor_that_is_returned_twice_are_outputs() -> None:
    module, outputs = flat(lambda x: {"x": x, "y": (y := x + 1), "z": y})
    assert outputs["y"] is outputs["z"]
    assert outputs["x"].op == "placeholder"
    assert torch.equal(module(X)["x"], X)
