"""The oracle: Picard iteration over depth ends at the serial network and keeps its bound on the way there."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from passes.picard import picard
from passes.stacks import Stack, find_stacks
from tests.passes.models import (
    HIDDEN,
    WIDTH,
    Attention,
    Mlp,
    Residual,
    graph_of,
    images,
    mlps,
    normal,
    randomised,
    relative_error,
    scheduled,
    tokens,
    vision,
)


def _after(module: nn.Module, rounds: int, *inputs: Tensor) -> Tensor:
    graph = graph_of(module, *inputs)
    (stack,) = find_stacks(graph).stacks
    (result,) = picard(graph, stack, inputs, rounds)
    return result


def _vision_after(rounds: int) -> Tensor:
    _, graph = vision()
    (result,) = picard(graph, _vision_stack(), [images()], rounds)
    return result


def _vision_stack() -> Stack:
    return find_stacks(vision()[1]).stacks[0]


def test_as_many_rounds_as_terms_give_the_serial_network() -> None:
    model, _ = vision()
    with torch.no_grad():
        assert relative_error(_vision_after(8), model(images())) < 1e-10


def test_one_round_fewer_than_terms_is_not_the_serial_network() -> None:
    model, _ = vision()
    assert relative_error(_vision_after(7), model(images())) > 1e-10


def test_more_rounds_than_terms_change_nothing() -> None:
    assert relative_error(_vision_after(9), _vision_after(8)) < 1e-12


def test_one_round_is_the_fully_parallel_schedule() -> None:
    parallel = scheduled(vision()[1], 8, [[[term] for term in range(8)]])
    assert relative_error(_vision_after(1), parallel(images())) < 1e-12


def test_every_round_makes_at_least_one_more_state_right() -> None:
    model, graph = mlps(6)
    state = tokens()
    with torch.no_grad():
        for rounds, step in enumerate(model.steps(), 1):
            state = step(state)
            (stack,) = find_stacks(graph).stacks
            beginning = Stack("beginning", stack.terms[:rounds])
            cut = Residual(list(model.terms)[:rounds])
            assert relative_error(picard(graph_of(cut, tokens()), _renamed(cut), [tokens()], rounds)[0], state) < 1e-12
            assert len(beginning.terms) == rounds


def _renamed(module: Residual) -> Stack:
    return find_stacks(graph_of(module, tokens())).stacks[0]


def test_the_error_of_weak_terms_falls_with_every_round() -> None:
    model = Residual([Mlp() for _ in range(5)])
    randomised(model)
    with torch.no_grad():
        for term in model.terms:
            term.down.weight.mul_(0.1)
        expected = model(tokens())
    errors = [relative_error(_after(model, rounds, tokens()), expected) for rounds in range(1, 6)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-4
    assert errors[-1] < 1e-13


@pytest.mark.parametrize("rounds", range(1, 5))
def test_rounds_on_linear_terms_give_the_binomial_expansion_up_to_their_number(rounds: int) -> None:
    slope, count = 0.5, 5
    model = Residual([nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(count)]).double().eval()
    with torch.no_grad():
        for term in model.terms:
            term.weight.copy_(slope * torch.eye(WIDTH))
    x = normal(3, WIDTH)
    expected = sum(math.comb(count, j) * slope**j for j in range(rounds + 1)) * x
    assert relative_error(_after(model, rounds, x), expected) < 1e-13


@pytest.mark.parametrize("strength", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("rounds", range(1, 6))
def test_the_error_after_k_rounds_is_at_most_m_a_to_the_k_times_n_over_k_plus_1(strength: float, rounds: int) -> None:
    count = 6
    terms = [nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, WIDTH, bias=False)) for _ in range(count)]
    model = Residual(terms)
    randomised(model)
    with torch.no_grad():
        for term in terms:
            term[2].weight.mul_(strength)  # type: ignore[operator]
        out = [float(torch.linalg.matrix_norm(term[2].weight, 2)) for term in terms]  # type: ignore[arg-type]
        into = [float(torch.linalg.matrix_norm(term[0].weight, 2)) for term in terms]  # type: ignore[arg-type]
        largest = max(out) * HIDDEN**0.5  # |tanh| <= 1
        slope = max(a * b for a, b in zip(out, into, strict=True))  # |tanh'| <= 1
        x = normal(16, WIDTH)
        error = float((_after(model, rounds, x) - model(x)).norm(dim=1).max())
    bound = largest * slope**rounds * math.comb(count, rounds + 1)
    assert 0 < error <= bound


def test_a_pair_whose_second_term_changes_most_meets_the_bound() -> None:
    model = Residual([nn.Linear(1, 1), nn.Linear(1, 1, bias=False)]).double().eval()
    m, a = 3.0, 0.7
    with torch.no_grad():
        model.terms[0].weight.fill_(0.0)
        model.terms[0].bias.fill_(m)
        model.terms[1].weight.fill_(a)
        error = _after(model, 1, normal(4, 1)) - model(normal(4, 1))
    assert torch.allclose(error.abs(), torch.full_like(error, m * a * math.comb(2, 2)), rtol=1e-12)


def test_a_term_with_a_norm_after_the_add_counts_as_what_it_adds() -> None:
    model = Residual([Mlp() for _ in range(3)], [nn.LayerNorm(WIDTH) for _ in range(3)])
    randomised(model)
    graph = graph_of(model, tokens())
    parallel = scheduled(graph, 3, [[[0], [1], [2]]])
    assert relative_error(_after(model, 1, tokens()), parallel(tokens())) < 1e-12
    with torch.no_grad():
        assert relative_error(_after(model, 3, tokens()), model(tokens())) < 1e-12


def test_terms_get_the_side_inputs_of_the_model() -> None:
    model = Residual([Attention("chunk") for _ in range(3)])
    randomised(model)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    with torch.no_grad():
        assert relative_error(_after(model, 3, tokens(), mask), model(tokens(), mask)) < 1e-12


def test_all_outputs_of_the_model_come_back() -> None:
    class TwoOutputs(Residual):
        def forward(self, x: Tensor, *sides: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            y = super().forward(x, *sides)
            return y, torch.tanh(y)

    model = TwoOutputs([Mlp(), Mlp()])
    randomised(model)
    graph = graph_of(model, tokens())
    results = picard(graph, find_stacks(graph).stacks[0], [tokens()], 2)
    with torch.no_grad():
        for actual, expected in zip(results, model(tokens()), strict=True):
            assert relative_error(actual, expected) < 1e-12
