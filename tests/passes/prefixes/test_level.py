"""The last level of several branches is found in every spelling, and what looks like one and is none is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from parallelize.models.capture import capture
from parallelize.models.clean import clean
from passes.errors import ParallelizeError
from passes.prefixes.level import WideLevel, last_level
from tests.passes.models import WIDTH, Function, Mlp, Residual, mlps, randomised, scheduled, tokens, vision
from tests.passes.prefixes.levels import case

NO_LEVEL = "no level of several branches"


def _graph(module: nn.Module, *inputs: Tensor) -> fx.GraphModule:
    return clean(capture(randomised(module), inputs or (tokens(),)))[0].module


def _level(module: nn.Module) -> WideLevel:
    return last_level(_graph(module))


@pytest.mark.parametrize("name", ["added", pytest.param("summed", marks=pytest.mark.slow), "mean", "post-norm"])
def test_state_and_branches_of_a_level_are_told_apart(name: str) -> None:
    level = last_level(case(name).graph)
    assert level.count == case(name).branches
    assert level.state is not None
    factors = {"added": [1, 1], "summed": [1, 3], "mean": [1, 1], "post-norm": [0, -3]}
    assert [level.kept_factor(level.state, count) for count in (1, level.count)] == factors[name]
    assert level.is_mean == (name == "mean")


def test_branches_stand_in_the_order_in_which_they_are_added() -> None:
    level = last_level(case("written by hand").graph)
    paths = [str(list(ends[0].meta["nn_module_stack"].values())[-1][0]) for ends in level.branches]
    assert [path.split(".")[0] for path in paths] == ["b", "a", "c"]


def test_a_serial_level_behind_a_wide_one_is_none() -> None:
    _, graph = mlps(6)
    level = last_level(scheduled(graph, 6, [[[0], [1], [2]], [[3], [4]], [[5]]]))
    assert level.count == 2


def test_a_chain_is_one_branch() -> None:
    assert [len(ends) for ends in last_level(case("chains").graph).branches] == [2, 2]


def test_a_serial_network_has_none() -> None:
    for graph in (vision()[1], mlps()[1]):
        with pytest.raises(ParallelizeError, match=NO_LEVEL) as raised:
            last_level(graph)
        assert "--depth" in raised.value.hint


class _Adapted(nn.Module):
    """A linear and an adapter of low rank beside it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear, self.down, self.up = nn.Linear(inputs, outputs), nn.Linear(inputs, 2), nn.Linear(2, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.up(self.down(x))  # type: ignore[no-any-return]


def test_an_adapter_beside_its_linear_is_no_branch() -> None:
    term = Mlp()
    term.up, term.down = _Adapted(WIDTH, 12), _Adapted(12, WIDTH)  # type: ignore[assignment]
    with pytest.raises(ParallelizeError, match=NO_LEVEL):
        _level(Residual([term, Mlp()]))


def _rotated(self: nn.Module, x: Tensor) -> Tensor:
    query = self.query(x)  # type: ignore[operator]
    turned = torch.cat([-query[..., WIDTH // 2 :], query[..., : WIDTH // 2]], -1)
    return x + self.out(query * self.cos + turned * self.sin)  # type: ignore[operator,no-any-return]


def test_rotary_positions_are_no_branches() -> None:
    tables = {"cos": torch.ones(WIDTH), "sin": torch.ones(WIDTH)}
    with pytest.raises(ParallelizeError, match=NO_LEVEL):
        _level(Function(_rotated, query=nn.Linear(WIDTH, WIDTH), out=nn.Linear(WIDTH, WIDTH), **tables))


def test_a_mapped_skip_path_is_no_branch() -> None:
    with pytest.raises(ParallelizeError, match=NO_LEVEL):
        _level(Function(lambda self, x: self.a(x) + self.b(x), a=nn.Linear(WIDTH, WIDTH), b=Mlp()))


def test_an_affine_term_of_the_state_belongs_to_every_prefix() -> None:
    parts = {"affine": nn.Linear(WIDTH, WIDTH), "a": Mlp(), "b": Mlp()}
    level = _level(Function(lambda self, x: x + self.a(x) + self.affine(x) + self.b(x), **parts))
    assert level.count == 2
    assert sorted(node.op for node in level.kept) == ["call_function", "placeholder"]


def test_a_level_that_no_output_reads_is_refused() -> None:
    def forward(self: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x + self.a(x) + self.b(x)  # type: ignore[operator]
        return self.a(x), torch.zeros_like(y)  # type: ignore[operator]

    graph = _graph(Function(forward, a=Mlp(), b=Mlp()))
    with pytest.raises(ParallelizeError, match=r"No output depends on the level|no level of several"):
        last_level(graph)


@pytest.mark.parametrize("count", [0, 3, -1])
def test_a_prefix_that_there_is_not_is_refused_with_those_that_there_are(count: int) -> None:
    with pytest.raises(ParallelizeError, match=rf"no prefix of {count} branches.* has 2") as raised:
        last_level(case("chains").graph).require([1, count])
    assert raised.value.hint == "Choose numbers from 1 to 2."
