"""The oracle: Picard iteration over depth ends at the serial network and keeps its bound on the way there."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from passes.schedule.picard import picard
from passes.stacks.find import Stack, find_stacks
from tests.passes.models import (
    HIDDEN,
    WIDTH,
    Attention,
    Mlp,
    Residual,
    fixed_graph_of,
    images,
    mlps,
    normal,
    randomised,
    relative_error,
    scheduled,
    tokens,
    vision,
)


def _after(module: nn.Module, rounds: Iterable[int], *inputs: Tensor) -> list[Tensor]:
    """The model's one output after each of these numbers of rounds."""
    graph = fixed_graph_of(module, *inputs)
    (stack,) = find_stacks(graph).stacks
    return [result for number in rounds for result in picard(graph, stack, inputs, number)]


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


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_no_fewer_rounds_than_terms_give_the_serial_network(count: int) -> None:
    model, _ = mlps(count)
    errors = [relative_error(result, model(tokens())) for result in _after(model, range(1, count + 1), tokens())]
    assert all(error > 1e-6 for error in errors[:-1])
    assert errors[-1] < 1e-12


def test_the_error_of_weak_terms_falls_with_every_round() -> None:
    model = Residual([Mlp() for _ in range(5)])
    randomised(model)
    with torch.no_grad():
        for term in model.terms:
            term.down.weight.mul_(0.1)
    errors = [relative_error(result, model(tokens())) for result in _after(model, range(1, 6), tokens())]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-4
    assert errors[-1] < 1e-13


def test_rounds_on_linear_terms_give_the_binomial_expansion_up_to_their_number() -> None:
    slope, count = 0.5, 5
    model = Residual([nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(count)]).double().eval()
    with torch.no_grad():
        for term in model.terms:
            term.weight.copy_(slope * torch.eye(WIDTH))
    x = normal(3, WIDTH)
    for rounds, result in enumerate(_after(model, range(1, count + 1), x), 1):
        expected = sum(math.comb(count, j) * slope**j for j in range(rounds + 1)) * x
        assert relative_error(result, expected) < 1e-13


@pytest.mark.parametrize("strength", [0.05, 0.3, 1.0])
def test_the_error_after_k_rounds_is_at_most_m_a_to_the_k_times_n_over_k_plus_1(strength: float) -> None:
    count = 6
    ups = [nn.Linear(WIDTH, HIDDEN) for _ in range(count)]
    downs = [nn.Linear(HIDDEN, WIDTH, bias=False) for _ in range(count)]
    model = Residual([nn.Sequential(up, nn.Tanh(), down) for up, down in zip(ups, downs, strict=True)])
    randomised(model)
    with torch.no_grad():
        for down in downs:
            down.weight.mul_(strength)
    out = [float(torch.linalg.matrix_norm(down.weight.detach(), 2)) for down in downs]
    into = [float(torch.linalg.matrix_norm(up.weight.detach(), 2)) for up in ups]
    largest = max(out) * HIDDEN**0.5  # |tanh| <= 1
    slope = max(a * b for a, b in zip(out, into, strict=True))  # |tanh'| <= 1
    x = normal(16, WIDTH)
    for rounds, result in enumerate(_after(model, range(1, count), x), 1):
        error = float((result - model(x)).detach().norm(dim=1).max())
        assert 0 < error <= largest * slope**rounds * math.comb(count, rounds + 1)


def test_a_pair_whose_second_term_changes_most_meets_the_bound() -> None:
    model = Residual([nn.Linear(1, 1), nn.Linear(1, 1, bias=False)]).double().eval()
    m, a = 3.0, 0.7
    with torch.no_grad():
        model.terms[0].weight.fill_(0.0)
        model.terms[0].bias.fill_(m)
        model.terms[1].weight.fill_(a)
        (result,) = _after(model, [1], normal(4, 1))
        error = (result - model(normal(4, 1))).abs()
    assert torch.allclose(error, torch.full_like(error, m * a * math.comb(2, 2)), rtol=1e-12, atol=0)


def test_a_term_with_a_norm_after_the_add_counts_as_what_it_adds() -> None:
    model = Residual([Mlp() for _ in range(3)], [nn.LayerNorm(WIDTH) for _ in range(3)])
    randomised(model)
    graph = fixed_graph_of(model, tokens())
    parallel = scheduled(graph, 3, [[[0], [1], [2]]])
    one_round, three_rounds = _after(model, [1, 3], tokens())
    assert relative_error(one_round, parallel(tokens())) < 1e-12
    assert relative_error(three_rounds, model(tokens())) < 1e-12


def test_terms_get_the_side_inputs_of_the_model() -> None:
    model = Residual([Attention("chunk") for _ in range(3)])
    randomised(model)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    (result,) = _after(model, [3], tokens(), mask)
    assert relative_error(result, model(tokens(), mask)) < 1e-12


def test_all_outputs_of_the_model_come_back() -> None:
    class TwoOutputs(Residual):
        def forward(self, x: Tensor, *sides: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            y = super().forward(x, *sides)
            return y, torch.tanh(y)

    model = TwoOutputs([Mlp(), Mlp()])
    randomised(model)
    graph = fixed_graph_of(model, tokens())
    results = picard(graph, find_stacks(graph).stacks[0], [tokens()], 2)
    with torch.no_grad():
        for actual, expected in zip(results, model(tokens()), strict=True):
            assert relative_error(actual, expected) < 1e-12
