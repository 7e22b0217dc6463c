"""Products with a stored matrix become linears that read views of it; a bias that is added later joins them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sympy
import torch
from torch import Tensor, fx, nn

from passes.clean.fold_constants import FoldConstants
from passes.clean.normalize_linears import NormalizeLinears
from passes.graph import operators as ops
from passes.graph.editing import finish
from passes.graph.parameters import read_parameter
from passes.runner import Skip
from tests.passes.models import (
    TOKENS,
    WIDTH,
    Function,
    graph_of,
    mlps,
    normal,
    randomised,
    relative_error,
    run,
    targets,
    text,
    tokens,
    wrong_metadata,
)

aten = torch.ops.aten
COLUMNS = 6


def _graph(function: Callable[..., Any], *example: Tensor, **options: Any) -> fx.GraphModule:
    """A model with a matrix, a bias for its columns and one more matrix, all behind names of one letter."""
    parts = {
        "w": normal(WIDTH, COLUMNS),
        "v": normal(COLUMNS, WIDTH),
        "b": normal(COLUMNS),
        "c": normal(1),
        "d": normal(3, COLUMNS),
    }
    return finish(graph_of(randomised(Function(function, **parts)), *(example or (tokens(),)), **options))


def _conv1d(self: Function, x: Tensor) -> Tensor:
    """The Conv1D of GPT-2."""
    y: Tensor = torch.addmm(self.b, x.view(-1, x.size(-1)), self.w).view(*x.size()[:-1], COLUMNS)
    return y


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, WIDTH)


FIRES = {
    "matmul": lambda s, x: x @ s.w,
    "matmul with a transposed matrix": lambda s, x: x @ s.v.t(),
    "matmul with a matrix transposed twice": lambda s, x: x @ s.w.t().permute(1, 0),
    "matmul and bias": lambda s, x: x @ s.w + s.b,
    "bias and matmul": lambda s, x: s.b + x @ s.w,
    "mm of merged tokens": lambda s, x: _flat(x).mm(s.w).relu(),
    "addmm of merged tokens": lambda s, x: torch.addmm(s.b, _flat(x), s.w).relu(),
    "addmm with a transposed matrix": lambda s, x: torch.addmm(s.b, _flat(x), s.v.t()).relu(),
    "addmm with factors of one": lambda s, x: torch.addmm(s.b, _flat(x), s.w, alpha=1, beta=1).relu(),
    "the Conv1D of GPT-2": _conv1d,
    "linear with a transposed matrix": lambda s, x: nn.functional.linear(x, s.w.t(), s.b),
    "linear without bias and an add": lambda s, x: nn.functional.linear(x, s.v) @ s.v + x,
    "merged and restored around a mm and a bias": lambda s, x: (_flat(x).mm(s.w) + s.b).view(*x.shape[:2], COLUMNS),
    "merged and restored around a mm": lambda s, x: _flat(x).mm(s.w).view(*x.shape[:2], COLUMNS),
}


@pytest.mark.parametrize("function", FIRES.values(), ids=FIRES.keys())
def test_products_with_a_stored_matrix_become_linears_with_the_same_numbers(function: Callable[..., Tensor]) -> None:
    graph = _graph(function)
    written, record = run(graph, NormalizeLinears(), tokens())
    assert ops.LINEAR in targets(written)
    assert not {aten.mm.default, aten.matmul.default, aten.addmm.default, aten.t.default} & set(targets(written))
    assert record.skipped == ()
    assert record.matches
    for batch in (1, 3):
        assert relative_error(written(tokens(batch)), graph(tokens(batch))) < 1e-10
        assert wrong_metadata(written, tokens(batch)) == []
    again, second = run(written, NormalizeLinears(), tokens())
    assert second.matches == second.skipped == ()
    assert text(again) == text(written)


ALONE = {
    "merged and restored around a mm and a bias": FIRES["merged and restored around a mm and a bias"],
    "the Conv1D of GPT-2": _conv1d,
    "merged and restored around a mm": FIRES["merged and restored around a mm"],
    "matmul and bias": FIRES["matmul and bias"],
    "bias and matmul": FIRES["bias and matmul"],
}


@pytest.mark.parametrize("function", ALONE.values(), ids=ALONE.keys())
def test_one_linear_is_all_that_is_left(function: Callable[..., Tensor]) -> None:
    written, _ = run(_graph(function), NormalizeLinears(), tokens())
    assert targets(written) == [ops.LINEAR]


def test_the_views_of_a_conv1d_go_where_batch_and_tokens_are_free() -> None:
    graph = _graph(_conv1d, dynamic=({0: "batch", 1: "tokens"},))
    written, _ = run(graph, NormalizeLinears(), tokens())
    assert targets(written) == [ops.LINEAR]
    for shape in ((1, 2), (3, TOKENS), (4, 9)):
        x = normal(*shape, WIDTH)
        assert relative_error(written(x), graph(x)) < 1e-10
        assert wrong_metadata(written, x) == []


def test_views_that_lead_to_another_shape_stay() -> None:
    graph = _graph(lambda s, x: _flat(x).mm(s.w).view(x.shape[0], TOKENS * COLUMNS))
    written, _ = run(graph, NormalizeLinears(), tokens())
    assert [target for target in targets(written) if target in ops.VIEWS] == [aten.reshape.default] * 2
    assert relative_error(written(tokens(7)), graph(tokens(7))) < 1e-10


def test_views_stay_where_the_merged_product_is_read_as_it_is_too() -> None:
    def forward(self: Function, x: Tensor) -> tuple[Tensor, Tensor]:
        product = _flat(x).mm(self.w)
        return product.view(*x.shape[:2], COLUMNS), product

    graph = _graph(forward)
    written, _ = run(graph, NormalizeLinears(), tokens())
    assert [tuple(output.shape) for output in written(tokens(2))] == [(2, TOKENS, COLUMNS), (2 * TOKENS, COLUMNS)]
    assert all(relative_error(a, b) < 1e-10 for a, b in zip(written(tokens(2)), graph(tokens(2)), strict=True))


def test_the_linear_reads_a_view_of_the_matrix_and_other_readers_keep_it() -> None:
    graph = _graph(lambda s, x: (x @ s.w) * s.w.sum())
    written, _ = run(graph, NormalizeLinears(), tokens())
    (linear,) = written.graph.find_nodes(op="call_function", target=ops.LINEAR)
    weight = linear.args[1]
    assert read_parameter(written, weight).shape == (COLUMNS, WIDTH)
    assert read_parameter(written, weight).data_ptr() == graph.get_parameter("w").data_ptr()
    assert "w" in dict(written.named_parameters(remove_duplicate=False))
    assert relative_error(written(tokens()), graph(tokens())) < 1e-10


REFUSED = {
    "factors": (
        lambda s, x: torch.addmm(s.b, _flat(x), s.w, alpha=0.5, beta=2),
        tokens(),
        r"addmm multiplies its operands by {'beta': 2, 'alpha': 0.5}",
    ),
    "a bias for each row": (
        lambda s, x: torch.addmm(s.d, x, s.w),
        normal(3, WIDTH),
        "addmm adds d of shape [3, 6], which is no vector over its columns",
    ),
    "one bias for all columns": (
        lambda s, x: torch.addmm(s.c, _flat(x), s.w),
        tokens(),
        "addmm adds c of shape [1], which is no vector over its columns",
    ),
}


@pytest.mark.parametrize(("function", "x", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_an_addmm_that_is_no_linear_stays_with_the_reason(
    function: Callable[..., Tensor], x: Tensor, reason: str
) -> None:
    graph = _graph(function, x, **({"dynamic": None} if x.ndim == 2 else {}))
    kept, record = run(graph, NormalizeLinears(), x)
    assert record.matches == ()
    assert record.skipped == (Skip("addmm", reason),)
    assert text(kept) == text(graph)


def test_a_bias_with_a_free_batch_is_refused_without_a_guard_on_the_batch() -> None:
    graph = _graph(lambda s, x, bias: torch.addmm(bias, x, s.w), normal(4, WIDTH), normal(4, COLUMNS))
    batch = next(iter(graph.graph.find_nodes(op="placeholder"))).meta["val"].shape[0]
    kept, record = run(graph, NormalizeLinears())
    assert len(record.skipped) == 1
    assert record.skipped[0].reason.endswith(f", {COLUMNS}], which is no vector over its columns")
    guards = [guard.expr for guard in batch.node.shape_env.guards]
    assert not [guard for guard in guards if guard.atoms(sympy.Integer)]
    inputs = normal(COLUMNS, WIDTH), normal(COLUMNS, COLUMNS)
    assert torch.equal(kept(*inputs), graph(*inputs))
    assert wrong_metadata(kept, *inputs) == []


STAYS = {
    "a product of two inputs": lambda s, x: x @ x.transpose(1, 2),
    "a stored matrix on the left": lambda s, x: s.w.t() @ x.transpose(1, 2),
    "a vector of the matrix": lambda s, x: x @ s.w[:, 0],
    "a vector times the matrix": lambda s, x: x[0, 0] @ s.w,
    "a computed matrix": lambda s, x: x @ (s.w * x.sum()),
}


@pytest.mark.parametrize("function", STAYS.values(), ids=STAYS.keys())
def test_products_that_are_no_linears_stay(function: Callable[..., Tensor]) -> None:
    graph = _graph(function)
    kept, record = run(graph, NormalizeLinears(), tokens())
    assert record.matches == record.skipped == ()
    assert text(kept) == text(graph)


ADDS = {
    "a bias for each token": lambda s, x: s.linear(x) + s.rows,
    "a bias of one number": lambda s, x: s.linear(x) + s.one,
    "a bias with a factor": lambda s, x: torch.add(s.linear(x), s.vector, alpha=2),
    "a bias of another dtype": lambda s, x: s.linear(x) + s.vector.float(),
    "a second bias": lambda s, x: s.biased(x) + s.vector,
    "a linear that is read elsewhere too": lambda s, x: (s.linear(x) + s.vector, s.linear(x).exp()),
    "the sum of two linears": lambda s, x: s.linear(x) + s.biased(x),
}


@pytest.mark.parametrize("function", ADDS.values(), ids=ADDS.keys())
def test_an_add_that_is_no_bias_stays(function: Callable[..., Any]) -> None:
    def forward(self: Function, x: Tensor) -> Any:
        product = self.a(x)
        self.linear = lambda _: product
        return function(self, x)

    parts = {"rows": normal(TOKENS, WIDTH), "one": normal(1), "vector": normal(WIDTH)}
    layers = {"a": nn.Linear(WIDTH, WIDTH, bias=False), "biased": nn.Linear(WIDTH, WIDTH)}
    graph, _ = run(graph_of(randomised(Function(forward, **layers, **parts)), tokens()), FoldConstants())
    kept, record = run(graph, NormalizeLinears(), tokens())
    assert record.matches == record.skipped == ()
    assert text(kept) == text(graph)


def test_a_bias_is_added_to_the_linear_even_where_it_is_read_first_or_elsewhere() -> None:
    graph = _graph(lambda s, x: ((x @ s.w + s.b) * s.b, s.b))
    written, _ = run(graph, NormalizeLinears(), tokens())
    assert targets(written) == [ops.LINEAR, aten.mul.Tensor]
    assert all(relative_error(a, b) < 1e-10 for a, b in zip(written(tokens()), graph(tokens()), strict=True))


def test_a_dead_product_of_merged_tokens_is_left_to_the_clean_up() -> None:
    graph = _graph(_conv1d)
    (view,) = (node for node in graph.graph.nodes if node.target in ops.VIEWS and node.args[0].op == "placeholder")
    (weight,) = graph.graph.find_nodes(op="get_attr", target="w")
    with graph.graph.inserting_after(view):
        dead = graph.graph.call_function(aten.mm.default, (view, weight))
    with torch.no_grad():
        dead.meta["val"] = view.meta["val"] @ graph.w.to("meta") if view.meta["val"].is_meta else None
    dead.meta["val"] = next(iter(graph.graph.find_nodes(op="call_function", target=aten.addmm.default))).meta["val"]
    graph.recompile()
    written, _ = run(graph, NormalizeLinears(), tokens())
    assert targets(written) == [ops.LINEAR]


def test_linears_as_they_are_stay_and_the_given_graph_is_not_changed() -> None:
    _, graph = mlps()
    same, record = run(graph, NormalizeLinears())
    assert record.matches == record.skipped == ()
    assert text(same) == text(graph)
    graph = _graph(_conv1d)
    before = text(graph)
    run(graph, NormalizeLinears())
    assert text(graph) == before
