"""What is foretold is added to a prefix alone and to all at once alike, and to that of all branches nothing."""

from __future__ import annotations

import torch

from passes.graph.operators import ROW_NORMS, gemms
from passes.graph.outputs import flat_outputs
from passes.prefixes.keep_prefix import KeepPrefix
from passes.prefixes.level import last_level
from passes.prefixes.prefix_outputs import PrefixOutputs
from passes.prefixes.rest import Rest, source_of
from passes.registry import FUSION
from passes.runner import run_passes
from tests.passes.models import EXACT, WIDTH, relative_error, run, wrong_metadata
from tests.passes.prefixes.levels import case, fused

REST = Rest(*(torch.randn(2, *shape, dtype=torch.float64) for shape in ((WIDTH, WIDTH), (WIDTH,))))


def test_functions_of_branches_that_do_not_run_are_added() -> None:
    network, inputs = case("chains"), case("chains").feed(3)
    alone = run(network.graph, KeepPrefix(1, REST))[0]
    plain = run(network.graph, KeepPrefix(1))[0]
    every = fused(run(network.graph, PrefixOutputs((1, 2), ("y",), REST))[0])
    one, all_ = flat_outputs(every, inputs)
    assert relative_error(one, flat_outputs(alone, inputs)[0]) <= EXACT
    assert relative_error(all_, flat_outputs(network.graph, inputs)[0]) <= EXACT
    assert relative_error(one, flat_outputs(plain, inputs)[0]) > 1e-3
    assert wrong_metadata(every, *inputs) == []


def test_they_cost_a_prefix_no_product() -> None:
    network = case("chains")
    ours, plain = (run_passes(network.graph, [KeepPrefix(1, rest), *FUSION])[0] for rest in (REST, None))
    counted = [sum(map(gemms, graph.graph.nodes)) for graph in (ours, plain)]
    assert counted[0] <= counted[1] + 1


def test_they_read_a_norm_without_gain_or_the_state() -> None:
    graph, _ = run(case("chains").graph, KeepPrefix(2))
    level = last_level(graph)
    source = source_of(graph, level)
    assert source is not None
    assert source.target in ROW_NORMS
    assert (source.args[0], source.args[2]) == (level.state, None)
    assert source_of(graph, level) is source
    post = case("post-norm").graph
    assert source_of(post, last_level(post)) is last_level(post).state
    assert source_of(case("without state").graph, last_level(case("without state").graph)) is None
