"""Sums in another spelling than x + f(x): the state that is found in them and the rest come to the sum."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from passes.graph.dataflow import positions
from passes.stacks.find import Refusal, Stacks
from passes.stacks.spelled_adds import spelled_add
from tests.passes.drawn import calls, drawn, inputs_of, result
from tests.passes.models import WIDTH, Function, normal, relative_error, tokens
from tests.passes.stacks.found import named_linears, stacks_of
from tests.passes.stacks.sums import sum_of, values_of

aten = torch.ops.aten
MATRIX, GAIN = normal(WIDTH, WIDTH, seed=3) / 3, normal(WIDTH, seed=4)

Combine = Callable[[Tensor, Tensor], Tensor]

# each with whether the state has a factor of its own, and how many sums are inside the sum
SPELLINGS: dict[str, tuple[Combine, bool, int]] = {
    "sub": (lambda x, f: x - f, False, 0),
    "stack": (lambda x, f: torch.stack([f, x, f * f]).sum(0), False, 0),
    "scaled": (lambda x, f: 0.9 * x + f, True, 0),
    "divided": (lambda x, f: x / 1.5 + 2 * f, True, 0),
    "divided by a parameter": (lambda x, f: x / GAIN + f, True, 0),
    "scaled twice": (lambda x, f: (0.5 * x) * GAIN + f, True, 0),
    "scaled by a gate": (lambda x, f: torch.sigmoid(x) * x + f, True, 0),
    "highway": (lambda x, f: (1 - torch.sigmoid(f)) * x + torch.sigmoid(f) * f, True, 0),
    "negated": (lambda x, f: f - x, True, 0),
    "copied": (lambda x, f: x.clone() - f, False, 0),
    "lerp": (lambda x, f: torch.lerp(x, f, 0.3), True, 0),
    "less two": (lambda x, f: (x - f) - f.sin(), False, 1),
    "lerp to the sum": (lambda x, f: torch.lerp(x, x + f, 0.3), False, 1),
    "gates of both": (lambda x, f: _gated(f.sin(), x + f, x), False, 1),
    "half of both": (lambda x, f: 0.5 * (x + f) + 0.5 * x, False, 1),
    "broadcast": (lambda x, f: x + f.mean(1, keepdim=True), False, 0),
}


def _gated(gate: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return gate * left + (1 - gate) * right


def _term(x: Tensor) -> Tensor:
    return torch.tanh(x @ MATRIX)


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_state_and_the_rest_come_to_the_sum(name: str) -> None:
    combine, scaled, inside = SPELLINGS[name]
    graph = drawn(lambda x: combine(x, _term(x)), tokens())
    root, values = result(graph), values_of(graph, tokens())
    spelled = spelled_add(root, positions(graph.graph))
    assert spelled is not None
    assert [spelled.skip] == inputs_of(graph)
    assert relative_error(values[spelled.skip] + sum_of(spelled.rest, values), values[root]) < 1e-14
    assert (spelled.scaled, len(spelled.sums)) == (scaled, inside)
    assert spelled.broadcast == (name == "broadcast")


PARTS: tuple[Callable[[Tensor, Tensor, Tensor], Tensor], ...] = (
    lambda x, a, b: a + b,
    lambda x, a, b: a - b,
    lambda x, a, b: torch.rsub(a, b, alpha=2),
    lambda x, a, b: torch.lerp(a, b, 0.25),
    lambda x, a, b: a * torch.sigmoid(b) + (1 - torch.sigmoid(b)) * x,
    lambda x, a, b: torch.addcmul(a, b, GAIN),
    lambda x, a, b: torch.stack([a, b]).mean(0),
    lambda x, a, b: torch.where(x > 0, a + b, a),
    lambda x, a, b: -a + b / 3,
    lambda x, a, b: 0.5 * a - (b - a),
)


@given(steps=st.lists(st.tuples(st.sampled_from(PARTS), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=5))
def test_whatever_sums_are_in_a_sum_what_is_read_of_it_comes_to_it(
    steps: list[tuple[Callable[[Tensor, Tensor, Tensor], Tensor], int, int]],
) -> None:
    def forward(x: Tensor) -> Tensor:
        made = [x, _term(x)]
        for part, left, right in steps:
            made.append(part(x, made[left % len(made)], made[right % len(made)]))
        return made[-1]

    graph = drawn(forward, tokens())
    values, place = values_of(graph, tokens()), positions(graph.graph)
    for node in graph.graph.nodes:
        spelled = spelled_add(node, place)
        if spelled is not None:
            found = values[spelled.skip] + sum_of(spelled.rest, values)
            assert float((found - values[node]).abs().max()) < 1e-11


@pytest.mark.parametrize(
    "forward",
    [
        pytest.param(lambda x: _term(x) * x, id="a product"),
        pytest.param(lambda x: _term(x) + MATRIX[0], id="a bias"),
        pytest.param(lambda x: x.sin() - x.cos(), id="neither made of the other"),
        pytest.param(lambda x: x - 1.0, id="a number"),
        pytest.param(lambda x: x.argsort(-1) - x.argsort(-1).flip(-1), id="integers"),
    ],
)
def test_what_is_no_sum_of_a_state_and_what_is_made_of_it_is_left(forward: Callable[[Tensor], Tensor]) -> None:
    graph = drawn(forward, tokens())
    place = positions(graph.graph)
    assert [node for node in graph.graph.nodes if spelled_add(node, place)] == []


def test_a_copy_that_lies_otherwise_in_memory_is_not_taken_for_the_state() -> None:
    graph = drawn(lambda x: x.transpose(1, 2).contiguous() - _term(x).transpose(1, 2), tokens())
    assert spelled_add(result(graph), positions(graph.graph)) is None


def test_a_sum_says_how_it_is_written() -> None:
    sentences = {
        "add adds 0.5 times tanh (alpha), not tanh itself": lambda x: torch.add(x, _term(x), alpha=0.5),
        "add broadcasts mean over the state x_1": lambda x: x + _term(x).mean(1, keepdim=True),
        "add scales the state x_1 that it adds to": lambda x: 0.9 * x + _term(x),
        "sub (aten.sub.Tensor) adds to the state x_1 without being an add": lambda x: x - _term(x),
    }
    for sentence, forward in sentences.items():
        graph = drawn(forward, tokens())
        spelled = spelled_add(result(graph), positions(graph.graph))
        assert spelled is not None
        assert spelled.described(result(graph)) == sentence


def test_a_sum_that_something_else_reads_is_not_taken_apart() -> None:
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        inner = x - _term(x)
        return inner - x.sin(), inner

    graph = drawn(forward, tokens())
    outer = calls(graph, aten.sub.Tensor)[1]
    assert spelled_add(outer, positions(graph.graph)) is None


def test_a_scaled_add_is_refused_with_its_scale() -> None:
    model = Function(lambda self, x: torch.add(x, self.a(x), alpha=2), **named_linears(1))
    reason = "add adds 2 times linear (alpha), not linear itself"
    assert stacks_of(model) == Stacks((), (Refusal("add", reason),))


def test_an_add_that_broadcasts_is_refused_with_what_it_broadcasts() -> None:
    model = Function(lambda self, x: x + self.a(x).mean(1, keepdim=True), **named_linears(1))
    assert stacks_of(model) == Stacks((), (Refusal("add", "add broadcasts mean over the state inputs_0"),))
