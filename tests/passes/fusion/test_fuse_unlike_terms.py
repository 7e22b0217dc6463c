"""Terms of unequal structure on one level share what they have in common, and what they lack is told."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.fusion.fuse_width import FuseWidth
from passes.graph.measures import critical_gemms, operator_counts
from tests.passes.models import (
    EXACT,
    WIDTH,
    Function,
    Levels,
    Mlp,
    Residual,
    fixed_graph_of,
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

VISION_LEVELS: dict[str, tuple[Levels, dict[str, int]]] = {
    "pairs of blocks": ([[[0], [2]], [[1], [3]], [[4], [6]], [[5], [7]]], {"linear": 9, "attention": 2, "norm": 5}),
    "unequal groups": ([[[0]], [[1]], [[2], [4], [6]], [[3], [5], [7]]], {"linear": 9, "attention": 2, "norm": 5}),
    "attention beside mlp": (
        [[[0], [1]], [[2], [3]], [[4], [5]], [[6], [7]]],
        {"linear": 13, "attention": 4, "norm": 5},
    ),
    "two blocks on one level": ([[[0], [1], [2], [3]], [[4], [5], [6], [7]]], {"linear": 7, "attention": 2, "norm": 3}),
    "a run of mlps": ([[[0]], [[1], [3], [5], [7]]], {"linear": 5, "attention": 1, "norm": 3}),
}


@pytest.mark.parametrize(("levels", "counts"), VISION_LEVELS.values(), ids=VISION_LEVELS.keys())
def test_each_level_has_one_norm_at_most_one_attention_and_one_out_projection(
    levels: Levels, counts: dict[str, int]
) -> None:
    parallel = scheduled(vision()[1], 8, levels)
    fused, record = run(parallel, FuseWidth(), images())
    assert record.skipped == ()
    assert wide_operators(fused) == counts
    for batch in (1, 3, 7):
        assert relative_error(fused(images(batch)), parallel(images(batch))) < EXACT
        assert wrong_metadata(fused, images(batch)) == []
    again, second = run(fused, FuseWidth())
    assert second.matches == ()
    assert text(again) == text(fused)


def test_pairs_of_blocks_run_the_operators_of_a_model_of_half_the_depth() -> None:
    fused, _ = run(scheduled(vision()[1], 8, VISION_LEVELS["pairs of blocks"][0]), FuseWidth())
    shallow = vision(depth=2)[1]
    assert wide_operators(fused) == wide_operators(shallow)
    assert critical_gemms(fused) == critical_gemms(shallow)
    counts, expected = operator_counts(fused), operator_counts(shallow)
    assert counts["aten.gelu.default"] == expected["aten.gelu.default"]
    assert counts["aten.add.Tensor"] == expected["aten.add.Tensor"]


def test_terms_of_two_widths_share_the_norm_and_the_out_projection_and_not_the_in_projection() -> None:
    model = Residual([Mlp(), Mlp(hidden=20), Mlp(), Mlp(hidden=20)])
    parallel = scheduled(fixed_graph_of(randomised(model), tokens()), 4, [[[0], [1], [2], [3]]])
    fused, record = run(parallel, FuseWidth(), tokens())
    assert record.matches == ("add_tensor_3: 2 x linear_1, 2 x linear_3",)
    assert wide_operators(fused) == {"linear": 3, "attention": 0, "norm": 1}


def test_norms_with_another_epsilon_are_not_shared() -> None:
    model = Residual([Mlp(), Mlp(nn.LayerNorm(WIDTH, eps=0.5))])
    parallel = scheduled(fixed_graph_of(randomised(model), tokens()), 2, [[[0], [1]]])
    fused, _ = run(parallel, FuseWidth(), tokens())
    assert wide_operators(fused)["norm"] == 2


def test_branches_that_end_in_no_product_are_summed_at_the_end() -> None:
    class Squared(Mlp):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).square()

    model = Residual([Mlp(), Squared(), Mlp(), Squared()])
    parallel = scheduled(fixed_graph_of(randomised(model), tokens()), 4, [[[0], [1], [2], [3]]])
    fused, record = run(parallel, FuseWidth(), tokens())
    assert record.skipped == ()
    assert record.matches == ("add_tensor_3: 2 x linear_1, 2 x square",)
    assert wide_operators(fused) == {"linear": 3, "attention": 0, "norm": 1}
    assert relative_error(fused(tokens()), parallel(tokens())) < EXACT


def test_what_cannot_be_fused_stays_and_the_rest_of_the_sum_is_fused() -> None:
    class Rare(Mlp):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(super().forward(x), 0.5, training=True)

    model = Residual([Mlp(), Rare(), Mlp(), Rare()])
    parallel = scheduled(fixed_graph_of(randomised(model), tokens()), 4, [[[0], [1], [2], [3]]])
    fused, record = run(parallel, FuseWidth())
    assert record.matches == ("add_tensor_3: 2 x linear_1",)
    assert {(skip.node, skip.reason) for skip in record.skipped} == {
        (name, "dropout (aten.dropout.default) draws random values, which the branches must not share")
        for name in ("dropout", "dropout_1")
    }
    assert wide_operators(fused) == {"linear": 6, "attention": 0, "norm": 3}
    again, _ = run(fused, FuseWidth())
    assert text(again) == text(fused)


def test_terms_of_another_structure_say_where_they_differ() -> None:
    model = Residual([Mlp(), Mlp(activation=torch.relu, norm=nn.Identity())])
    parallel = scheduled(fixed_graph_of(randomised(model), tokens()), 2, [[[0], [1]]])
    _, record = run(parallel, FuseWidth(), tokens())
    assert record.matches == ("add_tensor_1: 1 x linear_1, 1 x linear_3",)  # they share the out-projection

    posts = [nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)]
    model = Residual([Mlp(), Mlp(hidden=20)], posts)
    parallel = scheduled(fixed_graph_of(randomised(model), tokens()), 2, [[[0], [1]]])
    fused, record = run(parallel, FuseWidth(), tokens())
    rows = (12, 20)
    assert record.matches == ()
    assert [skip.reason for skip in record.skipped] == [
        f"{names[0]} is not computed as {names[1]} is: terms.{a}.up.weight is [{rows[a]}, 8] float64,"
        f" terms.{b}.up.weight is [{rows[b]}, 8] float64"
        for names, a, b in ((("layer_norm_1", "layer_norm_3"), 0, 1), (("layer_norm_3", "layer_norm_1"), 1, 0))
    ]
    assert text(fused) == text(parallel)


def test_unlike_branches_on_a_state_that_cancels_out_are_left_with_a_reason() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        return x + (self.n(x + self.a(x)) - x) + torch.tanh(self.b(x))

    parts = {"n": nn.LayerNorm(WIDTH), "a": nn.Linear(WIDTH, WIDTH), "b": nn.Linear(WIDTH, WIDTH)}
    result = FuseWidth().apply(fixed_graph_of(randomised(Function(forward, **parts)), tokens()))
    assert (result.matches, result.changed) == ((), ())
    assert [skip.node for skip in result.skipped] == list(result.present)
    assert len(result.present) == 2
