"""The sites of a rewrite: for each level the state before it, what its terms add, and the state after it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from passes.graph.editing import clone
from passes.graph.outputs import flat_outputs
from passes.schedule.apply_plan import rewrite
from passes.stacks.find import find_stacks
from tests.passes.models import (
    WIDTH,
    Function,
    Levels,
    Mlp,
    Residual,
    fixed_graph_of,
    images,
    plan_of,
    randomised,
    relative_error,
    tokens,
    vision,
)
from tests.passes.schedule.forms import BLOCK, MIXED, SUBLAYER


def _values(graph: fx.GraphModule, nodes: list[fx.Node], *inputs: Tensor) -> list[Tensor]:
    """What the nodes hold when the graph runs."""
    observed = clone(graph)
    by_name = {node.name: node for node in observed.graph.nodes}
    output = next(iter(observed.graph.find_nodes(op="output")))
    output.args = (tuple(by_name[node.name] for node in nodes),)
    observed.recompile()
    return flat_outputs(observed, inputs)


@pytest.mark.parametrize("levels", [SUBLAYER, BLOCK, MIXED])
def test_each_site_of_a_level_names_the_state_before_it_what_its_terms_add_and_the_state_after(levels: Levels) -> None:
    _, graph = vision()
    rewritten, (site,) = rewrite(graph, plan_of(8, levels))
    assert [[list(chain) for chain in level.level.chains] for level in site.levels] == [
        list(map(list, v)) for v in levels
    ]
    assert all(node.graph is rewritten.graph for level in site.levels for node in (level.entry, level.result))
    for level in site.levels:
        entry, result, *contributions = _values(rewritten, [level.entry, level.result, *level.contributions], images())
        assert relative_error(entry + sum(contributions), result) < 1e-12
    for before, after in zip(site.levels, site.levels[1:], strict=False):
        assert before.result is after.entry


def test_the_sites_of_a_post_norm_model_count_the_norm_in_what_a_term_adds() -> None:
    model = Residual([Mlp() for _ in range(3)], [nn.LayerNorm(WIDTH) for _ in range(3)])
    rewritten, (site,) = rewrite(fixed_graph_of(randomised(model), tokens()), plan_of(3, [[[0], [1], [2]]]))
    (level,) = site.levels
    expected = [step(tokens()) - tokens() for step in model.steps()]
    for actual, wanted in zip(_values(rewritten, list(level.contributions), tokens()), expected, strict=True):
        assert relative_error(actual, wanted) < 1e-12


def test_the_terms_of_a_site_are_in_the_order_of_the_plan() -> None:
    _, graph = vision()
    stack = find_stacks(graph).stacks[0]
    _, (site,) = rewrite(graph, plan_of(8, [[[2, 3], [0, 1]]]))
    assert [term.module for term in site.levels[0].terms] == [stack.terms[number].module for number in (2, 3, 0, 1)]
    assert [term.kind for term in site.levels[0].terms] == ["attention", "mlp"] * 2


def test_what_reads_the_shape_of_a_later_state_reads_the_entry_s() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        for name in "ab":
            x = x + getattr(self, name)(x * (1 + torch.ones_like(x)))
        return x

    graph = fixed_graph_of(randomised(Function(forward, a=Mlp(), b=Mlp())), tokens())
    wide, (site,) = rewrite(graph, plan_of(2, [[[0], [1]]]))
    assert [len(term.output.users) for term in site.levels[0].terms] == [1, 1]
    readers = wide.graph.find_nodes(op="call_function", target=torch.ops.aten.ones_like.default)
    assert {node.args[0] for node in readers} == {site.levels[0].entry}
