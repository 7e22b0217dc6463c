"""Operators that pass a value through go; those that change or copy it stay."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from passes.clean.remove_identities import RemoveIdentities
from passes.runner import Skip
from tests.passes.models import (
    HIDDEN,
    WIDTH,
    Function,
    Mlp,
    Residual,
    graph_of,
    normal,
    randomised,
    relative_error,
    run,
    targets,
    text,
    tokens,
    vision,
    wrong_metadata,
)

aten = torch.ops.aten


def _insert(target: Callable[..., object], *arguments: object, source: torch.dtype = torch.float64) -> fx.GraphModule:
    """A captured linear whose output goes through one more operator, which reads it first."""
    linear = randomised(nn.Linear(WIDTH, WIDTH)).to(source)
    graph = graph_of(linear, tokens().to(source))
    output = next(iter(graph.graph.find_nodes(op="output")))
    (result,) = output.all_input_nodes
    with graph.graph.inserting_before(output):
        node = graph.graph.call_function(target, (result, *arguments))
    with torch.no_grad():
        node.meta["val"] = target(result.meta["val"], *arguments)
    output.replace_input_with(result, node)
    graph.recompile()
    return graph


IDENTITIES = {
    "dropout": (aten.dropout.default, 0.5, False),
    "feature dropout": (aten.feature_dropout.default, 0.5, False),
    "feature alpha dropout": (aten.feature_alpha_dropout.default, 0.5, False),
    "alpha dropout": (aten.alpha_dropout.default, 0.5, False),
    "alias": (aten.alias.default,),
    "detach": (aten.detach.default,),
    "cast to the same dtype": (aten.to.dtype, torch.float64),
    "copy to the same dtype": (aten._to_copy.default,),
    "cast to the same dtype and layout": (aten.to.dtype_layout,),
    "zero added": (aten.add.Tensor, 0),
    "one multiplied": (aten.mul.Tensor, 1.0),
}


@pytest.mark.parametrize("operator", IDENTITIES.values(), ids=IDENTITIES.keys())
def test_an_operator_that_passes_its_value_through_is_removed(operator: tuple[Callable[..., object], object]) -> None:
    graph = _insert(*operator)
    assert targets(graph) == [aten.linear.default, operator[0]]
    cleaned, record = run(graph, RemoveIdentities(), tokens())
    assert targets(cleaned) == [aten.linear.default]
    assert len(record.matches) == 1
    assert record.skipped == ()
    assert torch.equal(cleaned(tokens(7)), graph(tokens(7)))
    assert wrong_metadata(cleaned, tokens(7)) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
def test_a_cast_to_another_dtype_stays(dtype: torch.dtype) -> None:
    graph = _insert(aten.to.dtype, dtype)
    kept, record = run(graph, RemoveIdentities())
    assert text(kept) == text(graph)
    assert record.matches == record.skipped == ()
    assert kept(tokens()).dtype == dtype


def test_casts_there_and_back_stay_because_they_round() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        y: Tensor = self.a(x).float().double()
        return y

    graph = graph_of(randomised(Function(forward, a=nn.Linear(WIDTH, WIDTH))), tokens())
    kept, record = run(graph, RemoveIdentities(), tokens())
    assert record.matches == ()
    assert targets(kept) == [aten.linear.default, aten.to.dtype, aten.to.dtype]


def test_dropout_in_training_mode_is_refused_with_its_probability() -> None:
    graph = _insert(aten.dropout.default, 0.25, True)
    kept, record = run(graph, RemoveIdentities())
    assert record.matches == ()
    assert record.skipped == (Skip("dropout_default", "dropout_default drops values with p = 0.25 in training mode"),)
    assert text(kept) == text(graph)


def test_an_assertion_on_metadata_is_removed() -> None:
    graph = graph_of(randomised(nn.Linear(WIDTH, WIDTH)), tokens())
    output = next(iter(graph.graph.find_nodes(op="output")))
    with graph.graph.inserting_before(output):
        graph.graph.call_function(aten._assert_tensor_metadata.default, (output.args[0], None, None, torch.float64))
    graph.recompile()
    cleaned, record = run(graph, RemoveIdentities(), tokens())
    assert record.matches == ("_assert_tensor_metadata_default",)
    assert targets(cleaned) == [aten.linear.default]


def test_identities_behind_each_other_all_go() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        y: Tensor = self.drop(self.drop(self.a(x)).detach().to(torch.float64))
        return y

    graph = graph_of(randomised(Function(forward, a=nn.Linear(WIDTH, WIDTH), drop=nn.Dropout(0.5))), tokens())
    cleaned, record = run(graph, RemoveIdentities(), tokens())
    assert targets(cleaned) == [aten.linear.default]
    assert len(record.matches) == 4


def test_an_encoder_loses_its_dropouts_and_keeps_its_numbers() -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, HIDDEN, dropout=0.5, batch_first=True)
    graph = graph_of(randomised(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)), tokens())
    cleaned, record = run(graph, RemoveIdentities(), tokens())
    assert len(record.matches) == 6
    assert record.nodes_after == record.nodes_before - 6
    assert aten.dropout.default in targets(graph)
    assert aten.dropout.default not in targets(cleaned)
    for batch in (1, 3, 7):
        assert torch.equal(cleaned(tokens(batch)), graph(tokens(batch)))
        assert wrong_metadata(cleaned, tokens(batch)) == []


def test_a_second_run_matches_nothing_and_leaves_the_graph_as_it_is() -> None:
    cleaned, _ = run(_insert(aten.dropout.default, 0.5, False), RemoveIdentities())
    again, record = run(cleaned, RemoveIdentities())
    assert record.matches == ()
    assert text(again) == text(cleaned)


def test_a_graph_without_identities_stays_as_it_is() -> None:
    _, graph = vision()
    same, record = run(graph, RemoveIdentities())
    assert record.matches == record.skipped == ()
    assert text(same) == text(graph)


def test_the_graph_that_was_cleaned_is_not_changed() -> None:
    graph = _insert(aten.dropout.default, 0.5, False)
    before = text(graph)
    run(graph, RemoveIdentities())
    assert text(graph) == before


def test_a_model_that_returns_its_input_returns_it_still() -> None:
    graph = graph_of(Function(lambda self, x: x.detach()).eval(), tokens())
    cleaned, record = run(graph, RemoveIdentities(), tokens())
    assert len(record.matches) == 1
    assert torch.equal(cleaned(tokens(7)), tokens(7))


def _copied_and_added_to(self: Function, x: Tensor) -> Tensor:
    y = x.to(x.dtype, copy=True)
    y += 1
    return x + y


def _constant_added_to(self: Function, x: Tensor) -> Tensor:
    offset = torch.tensor([1.0] * WIDTH, dtype=torch.float64)
    offset += 1
    return x + offset


def _written_over(_: Function, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :] = torch.sin(x)
    return y


def _added_in_a_slice_of_all(_: Function, x: Tensor) -> Tensor:
    y = torch.sin(x)
    y[:] += x
    return y


def _written_in_part(_: Function, x: Tensor) -> Tensor:
    y = torch.sin(x)
    y[:, 1:] = x[:, 1:]
    return y


@pytest.mark.parametrize("forward", [_written_over, _added_in_a_slice_of_all, _written_in_part])
def test_a_write_of_all_values_is_what_it_writes_and_one_of_some_stays(
    forward: Callable[[Function, Tensor], Tensor],
) -> None:
    model = Function(forward).eval()
    cleaned, _ = run(graph_of(model, tokens()), RemoveIdentities(), tokens())
    assert torch.equal(cleaned(tokens(2)), model(tokens(2)))
    assert wrong_metadata(cleaned, tokens(2)) == []
    assert (aten.slice_scatter.default in targets(cleaned)) == (forward is _written_in_part)


@pytest.mark.parametrize("forward", [_copied_and_added_to, _constant_added_to])
def test_a_copy_that_is_written_to_stays(forward: Callable[[Function, Tensor], Tensor]) -> None:
    graph = graph_of(Function(forward).eval(), tokens())
    cleaned, _ = run(graph, RemoveIdentities())
    expected = [forward(Function(forward), tokens()) for _ in range(2)]
    assert [relative_error(cleaned(tokens()), e) for e in expected] == [0.0, 0.0]


def test_terms_of_a_stack_keep_their_place_when_dropouts_between_them_go() -> None:
    terms = [nn.Sequential(Mlp(), nn.Dropout(0.5)) for _ in range(3)]
    graph = graph_of(randomised(Residual(terms)), tokens())
    cleaned, record = run(graph, RemoveIdentities(), normal(3, 5, WIDTH))
    without = graph_of(randomised(Residual([nn.Sequential(Mlp()) for _ in range(3)])), tokens())
    assert len(record.matches) == 3
    assert text(cleaned) == text(without)
