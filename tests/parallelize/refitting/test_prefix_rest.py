"""What the branches behind a prefix add is foretold as well as an affine function can, where one helps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from parallelize.models.capture import capture
from parallelize.models.program import Program
from parallelize.refitting.prefix_rest import RestOfLevel, rest_of
from passes.graph.outputs import flat_outputs
from passes.prefixes.keep_prefix import KeepPrefix
from passes.prefixes.prefix_outputs import PrefixOutputs
from passes.registry import FUSION
from passes.runner import run_passes
from tests.parallelize.small_models import linear, mlp, vectors

FIT, HELD_OUT, JUDGE = (vectors(count, 6, seed) for count, seed in ((200, 0), (60, 1), (20, 2)))


class Branched(nn.Module):
    """(batch, 6) -> x + the sum of branches of x."""

    def __init__(self, *branches: nn.Module, mean: bool = False) -> None:
        super().__init__()
        self.branches, self.mean = nn.ModuleList(branches), mean

    def forward(self, x: Tensor) -> Tensor:
        added = torch.stack([branch(x) for branch in self.branches]).sum(0)
        return x + (added / len(self.branches) if self.mean else added)


def _program(model: nn.Module) -> Program:
    return capture(model.double().eval(), (torch.zeros(1, 6, dtype=torch.float64),), origin="branched")


def _affine(*, seed: int) -> nn.Module:
    """An affine function of the normalised state that is no single linear, so that it counts as a branch."""
    torch.manual_seed(seed)
    inner = linear(torch.randn(12, 6), torch.randn(12))
    return nn.Sequential(nn.LayerNorm(6, elementwise_affine=False), inner, nn.LeakyReLU(1.0), nn.Linear(12, 6))


def test_what_is_affine_in_the_norm_of_the_state_is_foretold_exactly() -> None:
    torch.manual_seed(0)
    program = _program(Branched(mlp(6, 12), _affine(seed=1), _affine(seed=2)))
    rest = RestOfLevel(FIT, HELD_OUT)
    found = rest(program)
    assert found is not None
    assert (rest(program) is found, rest.helps) == (True, True)
    (x,) = JUDGE.batch(20)
    whole = flat_outputs(program.module, [x])[0]
    graph = run_passes(program.module, [KeepPrefix(1, found), *FUSION])[0]
    every = run_passes(program.module, [PrefixOutputs((1, 2, 3), ("y",), found), *FUSION])[0]
    for value in (*flat_outputs(graph, [x]), *flat_outputs(every, [x])):
        assert float((value - whole).norm() / whole.norm()) < 1e-3  # what the ridge takes off
    alone, at_once = flat_outputs(graph, [x])[0], flat_outputs(every, [x])
    torch.testing.assert_close(alone, at_once[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(at_once[2], whole, rtol=1e-10, atol=1e-10)


def test_a_prefix_is_nearer_to_the_network_than_without() -> None:
    torch.manual_seed(0)
    program = _program(Branched(*(mlp(6, 12) for _ in range(4))))
    found = rest_of(program.module, FIT, HELD_OUT)
    (x,) = JUDGE.batch(20)
    whole = flat_outputs(program.module, [x])[0]
    for count in (1, 2, 3):
        plain, ours = (
            flat_outputs(run_passes(program.module, [KeepPrefix(count, rest)])[0], [x])[0] for rest in (None, found)
        )
        assert (ours - whole).norm() < 0.5 * (plain - whole).norm()


class Even(nn.Module):
    """A branch of which no affine function of the state foretells anything."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 12, bias=False), linear(torch.randn(6, 12))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(torch.cos(20 * self.up(x)))
        return y


def test_nothing_is_foretold_where_that_does_not_help() -> None:
    torch.manual_seed(0)
    few = FIT.head(8)
    rest = RestOfLevel(few, HELD_OUT)
    program = _program(Branched(Even(), Even()))
    assert (rest(program), rest.helps) == (None, False)


@pytest.mark.parametrize("model", [pytest.param(Branched(mlp(6, 12), mlp(6, 12), mean=True), id="mean")])
def test_what_needs_no_stand_in_gets_none(model: nn.Module) -> None:
    assert rest_of(_program(model).module, FIT, HELD_OUT) is None
