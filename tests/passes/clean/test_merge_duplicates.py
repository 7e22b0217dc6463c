"""What several nodes compute alike is computed once; random values, and arguments that only look alike, are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.clean.merge_duplicates import MergeDuplicates
from passes.runner import Skip
from passes.stacks.find import find_stacks
from tests.passes.models import WIDTH, Function, graph_of, mlps, normal, randomised, run, text, tokens, wrong_metadata

aten = torch.ops.aten


def _graph(function: Callable[..., Any], *example: Tensor, **parts: nn.Module | Tensor) -> fx.GraphModule:
    return graph_of(randomised(Function(function, **parts)), *(example or (tokens(),)))


def _count(graph: fx.GraphModule, target: object) -> int:
    return len(graph.graph.find_nodes(op="call_function", target=target))


def _pieces(self: Function, x: Tensor) -> Tensor:
    first, second = x.split(WIDTH // 2, -1)
    again, _ = x.split(WIDTH // 2, -1)
    return first * second + again


MERGED = {
    "operator": (lambda s, x: torch.sin(x) * s.a(torch.sin(x)), aten.sin.default),
    "chain": (lambda s, x: torch.exp(torch.sin(x) + 1) * s.a(torch.exp(torch.sin(x) + 1)), aten.exp.default),
    "product with one weight": (lambda s, x: s.a(x) * s.a(x), aten.linear.default),
    "operator of several results": (_pieces, aten.split.Tensor),
    "attention": (
        lambda s, x: F.scaled_dot_product_attention(x, x, x) + s.a(F.scaled_dot_product_attention(x, x, x)),
        aten.scaled_dot_product_attention.default,
    ),
}


@pytest.mark.parametrize(("function", "target"), MERGED.values(), ids=MERGED.keys())
def test_what_is_computed_twice_is_computed_once_with_the_same_bits(
    function: Callable[..., Tensor], target: object
) -> None:
    graph = _graph(function, a=nn.Linear(WIDTH, WIDTH))
    merged, record = run(graph, MergeDuplicates(), tokens())
    assert _count(graph, target) == 2
    assert _count(merged, target) == 1
    assert record.skipped == ()
    for batch in (1, 3):
        assert torch.equal(merged(tokens(batch)), graph(tokens(batch)))
        assert wrong_metadata(merged, tokens(batch)) == []
    again, second = run(merged, MergeDuplicates(), tokens())
    assert second.matches == ()
    assert text(again) == text(merged)


def test_a_value_inside_a_term_is_not_given_to_what_reads_the_state_outside_of_it() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        states = [x]
        for name in "abc":
            states.append(states[-1] + getattr(self, name)(torch.tanh(states[-1])))
        return states[-1] * torch.tanh(states[1]) * torch.tanh(states[1])

    graph = _graph(forward, **{name: nn.Linear(WIDTH, WIDTH) for name in "abc"})
    (before,) = find_stacks(graph).stacks
    merged, record = run(graph, MergeDuplicates(), tokens())
    assert record.matches == ("tanh_4 is tanh_3",)
    assert record.skipped == (Skip("tanh_3", "tanh_1 computes the same, but not in the same term"),)
    (after,) = find_stacks(merged).stacks
    assert len(after.terms) == len(before.terms) == 3
    again, second = run(merged, MergeDuplicates(), tokens())
    assert second.matches == ()
    assert text(again) == text(merged)


def test_a_match_names_the_node_and_its_original() -> None:
    graph = _graph(lambda s, x: torch.sin(x) * torch.cos(torch.sin(x)))
    _, record = run(graph, MergeDuplicates())
    assert record.matches == ("sin_1 is sin",)


def test_different_pieces_of_one_split_are_kept_apart() -> None:
    merged, _ = run(_graph(_pieces), MergeDuplicates(), tokens())
    split = next(iter(merged.graph.find_nodes(op="call_function", target=aten.split.Tensor)))
    assert sorted(user.args[1] for user in split.users) == [0, 1]


def test_a_model_that_returns_one_value_twice_returns_it_twice_still() -> None:
    graph = _graph(lambda s, x: (torch.sin(x), torch.sin(x)))
    merged, record = run(graph, MergeDuplicates(), tokens())
    assert len(record.matches) == 1
    assert [torch.equal(a, torch.sin(tokens())) for a in merged(tokens())] == [True, True]


RANDOM = {
    "dropout in training mode": lambda s, x: F.dropout(x, 0.5, True) - F.dropout(x, 0.5, True),
    "noise": lambda s, x: torch.rand_like(x) - torch.rand_like(x),
    "attention with dropout": lambda s, x: (
        F.scaled_dot_product_attention(x, x, x, dropout_p=0.5) - F.scaled_dot_product_attention(x, x, x, dropout_p=0.5)
    ),
}


@pytest.mark.parametrize("function", RANDOM.values(), ids=RANDOM.keys())
def test_random_values_are_never_merged(function: Callable[..., Tensor]) -> None:
    graph = _graph(function)
    kept, record = run(graph, MergeDuplicates())
    assert record.matches == ()
    assert text(kept) == text(graph)
    assert bool(kept(tokens()).abs().max() > 0)


def test_integers_and_floats_give_other_dtypes_and_are_not_merged() -> None:
    graph = _graph(lambda s, i: (i * 2, i * 2.0, i * 2), torch.arange(12).reshape(3, 4))
    merged, record = run(graph, MergeDuplicates())
    outputs = merged(torch.arange(12).reshape(3, 4))
    assert [output.dtype for output in outputs] == [torch.int64, torch.float32, torch.int64]
    assert len(record.matches) == 1


def test_zeros_of_unlike_sign_are_not_merged() -> None:
    graph = _graph(lambda s, x: (x.abs() / 0.0, x.abs() / -0.0))
    merged, _ = run(graph, MergeDuplicates(), tokens())
    positive, negative = merged(tokens())
    assert bool((positive == float("inf")).all())
    assert bool((negative == -float("inf")).all())


def test_operators_on_different_values_or_with_other_options_stay() -> None:
    graph = _graph(
        lambda s, x, y: (
            F.gelu(x) + F.gelu(x, approximate="tanh") + F.gelu(y) + torch.add(x, y, alpha=2) + torch.add(x, y)
        ),
        tokens(),
        tokens(seed=2),
    )
    kept, record = run(graph, MergeDuplicates())
    assert record.matches == record.skipped == ()
    assert text(kept) == text(graph)


def test_sizes_that_are_read_twice_are_read_once_and_stay_free() -> None:
    graph = _graph(
        lambda s, x: s.a.expand(x.shape[0], WIDTH) + s.b.expand(x.shape[0], WIDTH), a=normal(WIDTH), b=normal(WIDTH)
    )
    merged, _ = run(graph, MergeDuplicates(), tokens())
    for batch in (1, 3, 7):
        assert torch.equal(merged(tokens(batch)), graph(tokens(batch)))
        assert wrong_metadata(merged, tokens(batch)) == []


def test_a_graph_without_duplicates_stays_as_it_is_and_the_given_graph_is_not_changed() -> None:
    _, graph = mlps()
    same, record = run(graph, MergeDuplicates())
    assert record.matches == record.skipped == ()
    assert text(same) == text(graph)
    graph = _graph(lambda s, x: torch.sin(x) * torch.sin(x))
    before = text(graph)
    run(graph, MergeDuplicates())
    assert text(graph) == before
