"""Width fusion of PyTorch's encoders: norms before the add and after it, and chains of several terms."""

from __future__ import annotations

import pytest
from torch import fx, nn

from passes.clean.remove_identities import RemoveIdentities
from passes.fusion.fuse_width import FuseWidth
from passes.graph.measures import critical_gemms
from passes.graph.operators import gemms
from tests.passes.models import (
    EXACT,
    HEADS,
    HIDDEN,
    WIDTH,
    Levels,
    graph_of,
    images,
    randomised,
    relative_error,
    run,
    scheduled,
    text,
    tokens,
    vision,
    wide_operators,
    wrong_metadata,
)
from tests.sampled import sampled


def _encoder(depth: int, *, batch_first: bool, norm_first: bool = True) -> fx.GraphModule:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 12, batch_first=batch_first, norm_first=norm_first)
    graph = graph_of(randomised(nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)), tokens())
    return run(graph, RemoveIdentities())[0]


@pytest.mark.slow
@pytest.mark.parametrize("batch_first", sampled([True, False], 2))
def test_the_encoder_of_torch_is_fused_with_its_packed_projection_and_either_order_of_dimensions(
    batch_first: bool,
) -> None:
    parallel = scheduled(_encoder(4, batch_first=batch_first), 8, [[[0], [2]], [[1], [3]], [[4], [6]], [[5], [7]]])
    fused, record = run(parallel, FuseWidth(), tokens())
    assert record.skipped == ()
    assert wide_operators(fused) == {"linear": 8, "attention": 2, "norm": 4}
    for batch in (1, 3, 7):
        assert relative_error(fused(tokens(batch)), parallel(tokens(batch))) < EXACT


@pytest.mark.parametrize("batch_first", sampled([True, False], 2))
def test_post_norm_branches_share_projections_and_attention_and_are_summed_behind_their_norms(
    batch_first: bool,
) -> None:
    encoder = _encoder(2, batch_first=batch_first, norm_first=False)
    parallel = scheduled(encoder, 4, [[[0], [2]], [[1], [3]]])
    fused, record = run(parallel, FuseWidth(), tokens())
    assert record.skipped == ()
    assert len(record.matches) == 2
    assert wide_operators(fused) == {"linear": 2, "attention": 1, "norm": 2}
    assert critical_gemms(fused) == critical_gemms(parallel)
    assert sum(gemms(node) for node in fused.graph.nodes) == 6
    for batch in (1, 3, 7):
        assert relative_error(fused(tokens(batch)), parallel(tokens(batch))) < EXACT
        assert wrong_metadata(fused, tokens(batch)) == []
    assert run(fused, FuseWidth())[1].matches == ()


@pytest.mark.slow
@pytest.mark.parametrize("batch_first", sampled([True, False], 2))
def test_pairs_of_layers_of_a_pre_norm_encoder_run_the_operators_of_half_the_depth(batch_first: bool) -> None:
    def encoder(depth: int) -> fx.GraphModule:
        layer = nn.TransformerEncoderLayer(WIDTH, 2, HIDDEN, norm_first=True, batch_first=batch_first)
        model = randomised(nn.TransformerEncoder(layer, depth, enable_nested_tensor=False))
        return run(graph_of(model, tokens()), RemoveIdentities())[0]

    parallel = scheduled(encoder(2), 4, [[[0], [2]], [[1], [3]]])
    fused, record = run(parallel, FuseWidth(), tokens())
    assert record.skipped == ()
    assert wide_operators(fused) == wide_operators(encoder(1))
    for batch in (1, 7):
        assert relative_error(fused(tokens(batch)), parallel(tokens(batch))) < EXACT
        assert wrong_metadata(fused, tokens(batch)) == []


BLOCK_LEVELS: dict[str, tuple[int, Levels]] = {
    "pairs": (4, [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]),
    "one level": (4, [[[0, 1], [2, 3], [4, 5], [6, 7]]]),
    "chains of two blocks": (4, [[[0, 1, 2, 3], [4, 5, 6, 7]]]),
    "two chains beside a block": (3, [[[0, 1], [2, 3]], [[4]], [[5]]]),
}


@pytest.mark.parametrize(
    ("depth", "levels"),
    [
        pytest.param(*levels, id=name, marks=() if name == "two chains beside a block" else pytest.mark.slow)
        for name, levels in BLOCK_LEVELS.items()
    ],
)
@pytest.mark.parametrize("norm_first", sampled([True, False], 2))
def test_chains_of_terms_are_batched_where_their_states_are_private(
    depth: int, levels: Levels, norm_first: bool
) -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, norm_first=norm_first, batch_first=True)
    model = randomised(nn.TransformerEncoder(layer, depth, enable_nested_tensor=False))
    graph = run(graph_of(model, tokens()), RemoveIdentities())[0]
    parallel = scheduled(graph, 2 * depth, levels)
    fused, record = run(parallel, FuseWidth(), tokens())
    assert record.skipped == ()
    assert wide_operators(fused)["attention"] < wide_operators(parallel)["attention"]
    assert critical_gemms(fused) == critical_gemms(parallel)
    for batch in (1, 3, 7):
        assert relative_error(fused(tokens(batch)), parallel(tokens(batch))) < EXACT
        assert wrong_metadata(fused, tokens(batch)) == []
    again, second = run(fused, FuseWidth())
    assert second.matches == ()
    assert text(again) == text(fused)


def test_a_level_of_equal_blocks_has_the_products_of_one_block() -> None:
    def products(graph: fx.GraphModule) -> int:
        return sum(gemms(node) for node in graph.graph.nodes)

    parallel = scheduled(vision()[1], 8, BLOCK_LEVELS["pairs"][1])
    fused, _ = run(parallel, FuseWidth(), images())
    assert products(fused) == products(vision(depth=2)[1])
    assert relative_error(fused(images(7)), parallel(images(7))) < EXACT
