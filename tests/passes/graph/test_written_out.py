"""Norms and softmaxes that are spelled out are found whole, and nothing else is taken for one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.graph.operators import LINEAR, aten
from passes.graph.written_out import written_out_norms, written_out_softmaxes
from tests.passes.drawn import calls, drawn, result
from tests.passes.models import WIDTH, normal, tokens

LAYER = nn.Linear(WIDTH, WIDTH).double()
GAIN = nn.Parameter(normal(WIDTH))

Forward = Callable[[Tensor], Tensor]


def _mean(x: Tensor) -> Tensor:
    return x.mean(-1, keepdim=True)


def _centred(x: Tensor) -> Tensor:
    return x - _mean(x)


NORMS: dict[str, Forward] = {
    "rms norm by pow": lambda x: x * torch.rsqrt(_mean(x.pow(2)) + 1e-6),
    "rms norm by a product": lambda x: x * torch.rsqrt(_mean(x * x) + 1e-6),
    "rms norm by square": lambda x: x / (_mean(x.square()) + 1e-6).sqrt(),
    "rms norm by powers": lambda x: x * (_mean(x**2) + 1e-6) ** -0.5,
    "rms norm by a sum": lambda x: x / ((x**2).sum(-1, keepdim=True) / WIDTH) ** 0.5,
    "layer norm": lambda x: _centred(x) * torch.rsqrt(_mean(_centred(x).pow(2)) + 1e-5),
    "layer norm by var": lambda x: _centred(x) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt(),
    "layer norm by std of var": lambda x: _centred(x) / torch.sqrt(torch.var(x, dim=-1, keepdim=True) + 1e-5),
    "length": lambda x: x / x.square().sum(-1, keepdim=True).sqrt().clamp_min(1e-6),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_is_found_from_its_statistics_to_the_product_and_not_its_gain(name: str) -> None:
    graph = drawn(lambda x: LAYER(NORMS[name](x.sin()) * GAIN), tokens())
    found = written_out_norms(graph.graph)
    names = {"sin", "linear", "output"} | {node.name for node in graph.graph.nodes if node.op != "call_function"}
    gain = next(node for node in graph.graph.nodes if node.users.keys() & set(calls(graph, LINEAR)) and node.args)
    computed = {node.name for node in graph.graph.nodes} - names - {gain.name}
    assert {node.name for node in found} == computed


def test_a_norm_in_another_type_is_found_without_the_way_back() -> None:
    graph = drawn(lambda x: (x.float() * torch.rsqrt(_mean(x.float().pow(2)) + 1e-6)).double(), tokens().half())
    found = written_out_norms(graph.graph)
    assert set(calls(graph, aten.pow.Tensor_Scalar, aten.mean.dim, aten.rsqrt.default, aten.mul.Tensor)) <= found
    assert result(graph) not in found


NO_NORMS: dict[str, Forward] = {
    "a gate by a root": lambda x: x * x.abs().sqrt(),
    "a statistic that scales nothing": lambda x: torch.rsqrt(_mean(x**2) + 1.0) + x,
    "a mean that scales": lambda x: x * _mean(x),
    "a product on the way": lambda x: x * torch.rsqrt(LAYER(_mean(x.pow(2)).expand_as(x)).square()),
    "another power": lambda x: x * _mean(x**2) ** 2,
    "a root that is read twice": lambda x: (s := torch.rsqrt(_mean(x**2) + 1.0)) * x + s.exp(),
    "a whole norm": lambda x: F.layer_norm(x, [WIDTH]),
}


@pytest.mark.parametrize("name", NO_NORMS)
def test_what_is_no_norm_is_not_found(name: str) -> None:
    assert written_out_norms(drawn(NO_NORMS[name], tokens()).graph) == set()


def _shifted(x: Tensor) -> Tensor:
    return (x - x.amax(-1, keepdim=True)).exp()


SOFTMAXES: dict[str, tuple[Forward, int]] = {
    "shifted once": (lambda x: (e := _shifted(x)) / e.sum(-1, keepdim=True), 5),
    "as it is": (lambda x: (e := x.exp()) / e.sum(-1, keepdim=True), 3),
    "guarded": (lambda x: (e := _shifted(x)) / (e.sum(-1, keepdim=True) + 1e-9), 6),
    "another sum": (lambda x: x.exp() / x.abs().sum(-1, keepdim=True), 0),
    "no exponential": (lambda x: (e := x.relu()) / e.sum(-1, keepdim=True), 0),
    "a whole softmax": (lambda x: x.softmax(-1), 0),
}


@pytest.mark.parametrize("name", SOFTMAXES)
def test_a_softmax_is_found_from_the_largest_value_to_the_quotient(name: str) -> None:
    forward, count = SOFTMAXES[name]
    graph = drawn(lambda x: LAYER(forward(LAYER(x))), tokens())
    found = written_out_softmaxes(graph.graph)
    assert len(found) == count
    assert found.isdisjoint(calls(graph, LINEAR))
