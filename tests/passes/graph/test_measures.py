"""What a graph costs: counted on graphs whose numbers are known."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from passes.graph.measures import critical_gemms, operator_counts, parameter_count
from tests.passes.models import (
    HIDDEN,
    WIDTH,
    Function,
    Mlp,
    Residual,
    fixed_graph_of,
    mlps,
    randomised,
    scheduled,
    tokens,
    vision,
)


def test_a_serial_transformer_waits_for_six_matrix_products_in_each_block() -> None:
    embedding, head = 1, 1
    assert critical_gemms(vision()[1]) == embedding + 4 * 6 + head


def test_blocks_side_by_side_wait_for_each_other_no_longer() -> None:
    _, graph = vision()
    assert critical_gemms(scheduled(graph, 8, [[[0], [2]], [[1], [3]], [[4], [6]], [[5], [7]]])) == 2 + 2 * 6
    assert critical_gemms(scheduled(graph, 8, [[[0, 1], [2, 3], [4, 5], [6, 7]]])) == 2 + 6
    assert critical_gemms(scheduled(graph, 8, [[[0], [1]]])) == 2 + 4


def test_a_graph_without_matrix_products_waits_for_none() -> None:
    assert critical_gemms(fixed_graph_of(Function(lambda self, x: x.exp()).eval(), tokens())) == 0


def test_the_parameters_of_a_captured_model_are_those_of_the_module() -> None:
    model, graph = vision()
    assert parameter_count(graph) == sum(parameter.numel() for parameter in model.parameters())


def test_parameters_of_deleted_terms_do_not_count() -> None:
    term = 2 * WIDTH + (WIDTH + 1) * HIDDEN + (HIDDEN + 1) * WIDTH
    assert parameter_count(mlps(6)[1]) == 6 * term
    assert parameter_count(scheduled(mlps(6)[1], 6, [[[0], [2]], [[5]]])) == 3 * term


def test_a_shared_tensor_counts_once() -> None:
    shared = Mlp()
    one, three = (fixed_graph_of(randomised(Residual([shared] * count)), tokens()) for count in (1, 3))
    assert parameter_count(three) == parameter_count(one)


def test_tied_weights_under_two_names_count_once() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        y: Tensor = self.b(torch.relu(self.a(x)))
        return y

    model = Function(forward, a=nn.Linear(WIDTH, WIDTH, bias=False), b=nn.Linear(WIDTH, WIDTH, bias=False))
    randomised(model)
    model.b.weight = model.a.weight
    assert parameter_count(fixed_graph_of(model, tokens())) == WIDTH * WIDTH


def test_operators_are_counted_by_name_the_most_frequent_first() -> None:
    counts = operator_counts(mlps(4)[1])
    assert counts == {
        "aten.linear.default": 8,
        "aten.layer_norm.default": 4,
        "aten.gelu.default": 4,
        "aten.add.Tensor": 4,
    }
    assert next(iter(counts)) == "aten.linear.default"
