"""Gains, shifts and scales folded into stored weights, against the operators one after another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.fusion.weights import folded_bias, folded_weight
from passes.graph.operators import LINEAR
from tests.passes.models import WIDTH, fixed_graph_of, normal, randomised, relative_error


@pytest.mark.parametrize("scale", [None, normal(4, seed=6)])
@pytest.mark.parametrize("gain", [None, normal(WIDTH, seed=2)])
@pytest.mark.parametrize("shift", [None, normal(WIDTH, seed=3)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_folded_linear_reads_the_normalised_state(gain: Any, shift: Any, scale: Any, bias: bool) -> None:
    linear = randomised(nn.Linear(WIDTH, 4, bias=bias))
    module = fixed_graph_of(linear, normal(3, WIDTH))
    node = next(iter(module.graph.find_nodes(op="call_function", target=LINEAR)))
    weight, total = folded_weight(module, node, gain, scale), folded_bias(module, node, shift, scale)
    x = normal(3, WIDTH, seed=4)
    expected = linear((x if gain is None else x * gain) + (0 if shift is None else shift))
    expected = expected if scale is None else expected * scale
    assert relative_error(F.linear(x, weight, total), expected) < 1e-14


def test_a_gain_of_the_weights_dtype_is_folded_as_exactly_as_one_in_float64() -> None:
    linear = randomised(nn.Linear(WIDTH, 4)).float()
    module = fixed_graph_of(linear, normal(3, WIDTH).float())
    node = next(iter(module.graph.find_nodes(op="call_function", target=LINEAR)))
    gain = normal(WIDTH, seed=2).float()
    assert torch.equal(folded_weight(module, node, gain), folded_weight(module, node, gain.double()))
