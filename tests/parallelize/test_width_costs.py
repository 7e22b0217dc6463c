"""What a Para-Former of N fused branches costs in operators, against one branch."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest
import torch

from paraformer.model import VisionConfig, VisionParaFormer
from parallelize.models.capture import capture
from parallelize.models.clean import clean
from passes.registry import FUSION
from passes.runner import run_passes
from tests.passes.models import SMALL
from tests.sampled import sampled

MOVING = ("reshape", "flatten", "unflatten", "permute", "transpose", "unbind", "getitem", "sym_size")


@cache
def operators(branches: int, blocks: int) -> Counter[str]:
    """The operators of a Para-Former after fusion, by name."""
    config = {**SMALL.to_dict(), "depth": branches * blocks, "mode": "para-former", "branches": branches}
    model = VisionParaFormer(VisionConfig(**config)).eval()  # type: ignore[arg-type]
    pixels = torch.zeros(2, 1, 8, 8)
    program, _ = clean(capture(model, (pixels,)))
    fused, _ = run_passes(program.module, FUSION)
    calls = [node.target for node in fused.graph.nodes if node.op == "call_function"]
    return Counter(getattr(call, "__name__", str(call)).split(".")[0] for call in calls)


def computing(counts: Counter[str]) -> Counter[str]:
    """Those that do more than move values."""
    return Counter({name: count for name, count in counts.items() if name not in MOVING})


@pytest.mark.parametrize(("blocks", "most"), sampled([(2, 3), (1, 5), (2, 5)], 3))
def test_any_number_of_branches_runs_the_same_operators(blocks: int, most: int) -> None:
    counts = [operators(branches, blocks) for branches in range(2, most + 1)]
    assert counts == counts[:1] * len(counts)


@pytest.mark.parametrize("blocks", [1, 2])
def test_against_one_branch_only_one_sum_over_the_branches_is_added(blocks: int) -> None:
    one, two = (computing(operators(branches, blocks)) for branches in (1, 2))
    adds = 2 * blocks - 1  # of what every sublayer but the last adds: to one another, and their sum to the state
    products = {"linear": one["linear"], "baddbmm": 0}
    assert two["linear"] + two["baddbmm"] == sum(products.values())
    rest = {name: two[name] - one[name] for name in two | one if name not in products and two[name] != one[name]}
    assert rest == {"sum": 1, "add": adds}


@pytest.mark.parametrize("blocks", [1, 2])
def test_against_one_branch_few_views_are_added(blocks: int) -> None:
    one, two = (operators(branches, blocks) for branches in (1, 2))
    moved = [sum(counts[name] for name in MOVING) for counts in (one, two)]
    # branches as samples before the first attention; rows split for the state and joined for the products, or the
    # other way round; the features of all branches side by side before the last product (two)
    assert moved[1] - moved[0] <= 5 + (blocks > 1)
