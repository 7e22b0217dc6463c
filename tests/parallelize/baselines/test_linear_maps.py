"""Linear maps in place of blocks: the map itself, the choice of ranges, and the network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from parallelize.baselines.depths import wanted_depths
from parallelize.baselines.linear_maps import best_maps, cheapest, fit_map, replaced
from parallelize.baselines.trial import States, Trial
from parallelize.data import Samples
from parallelize.metrics import predict
from parallelize.models.capture import capture
from passes.graph.agreement import largest_change
from passes.graph.measures import operator_counts
from passes.plan import Plan, grouped
from passes.schedule.apply_plan import rewrite
from passes.schedule.map_blocks import LinearMap
from passes.stacks.find import find_stacks
from tests.parallelize.small_models import (
    PostNorm,
    Residual,
    TwoStacks,
    capture_vectors,
    images,
    linear,
    mlp,
    stack_plan,
    vectors,
    vision,
)

FIT, HELD_OUT, JUDGE = (vectors(count, 6, seed) for seed, count in enumerate((200, 100, 50)))


def _states(*values: Tensor) -> States:
    return States.keep(Samples({"x": torch.cat(values)}), len(values[0]), values)


def test_an_affine_relation_of_two_states_is_found_up_to_the_ridge() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.eye(5) + 0.1 * torch.randn(5, 5, generator=generator)
    known = LinearMap(weight.double(), torch.arange(5.0).double(), -1)
    before = [_states(*torch.randn(2, 100, 3, 5, generator=generator, dtype=torch.float64)) for _ in range(2)]
    after = [states.map(known) for states in before]
    found = fit_map(before[0], after[0], before[1], after[1], -1)
    torch.testing.assert_close(found.weight, known.weight, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.bias, known.bias, rtol=1e-4, atol=1e-4)


def test_what_no_map_explains_is_left_to_the_identity() -> None:
    """Noise on the held-out samples makes the largest ridge win, which is nearly plain deletion."""
    generator = torch.Generator().manual_seed(0)
    before, after = (
        [_states(torch.randn(12, 8, generator=generator, dtype=torch.float64)) for _ in range(2)] for _ in range(2)
    )
    after = [_states(next(b.values) + next(a.values)) for a, b in zip(after, before, strict=True)]
    found = fit_map(before[0], after[0], before[1], after[1], -1)
    small = fit_map(before[0], after[0], before[0], after[0], -1)
    distance = [(each.weight - torch.eye(8)).norm() for each in (found, small)]
    assert distance[0] < 0.7 * distance[1]


def test_a_map_mixes_the_axis_that_it_is_for_and_keeps_the_dtype() -> None:
    known = LinearMap(torch.tensor([[0.0, 2], [1, 0]], dtype=torch.float64), torch.zeros(2, dtype=torch.float64), 1)
    state = torch.arange(12.0).reshape(1, 2, 2, 3)
    assert torch.equal(known(state), torch.stack([2 * state[:, 1], state[:, 0]], 1))


@pytest.mark.parametrize(
    ("costs", "several", "kept", "ranges"),
    [
        ({(0, 0): 1.0, (1, 1): 2.0, (2, 2): 4.0}, True, 1, ((0, 1),)),
        ({(0, 0): 1.0, (1, 1): 9.0, (2, 2): 4.0, (0, 1): 6.0, (1, 2): 6.0}, True, 1, ((0, 0), (2, 2))),
        ({(0, 0): 1.0, (1, 1): 9.0, (2, 2): 4.0, (0, 1): 6.5, (1, 2): 6.0}, False, 1, ((1, 2),)),
        ({(0, 0): 1.0, (1, 1): 9.0, (2, 2): 4.0}, True, 3, ()),
    ],
)
def test_the_disjoint_ranges_of_the_smallest_sum_are_found(
    costs: dict[tuple[int, int], float], several: bool, kept: int, ranges: tuple[tuple[int, int], ...]
) -> None:
    assert cheapest(3, costs, several=several)[kept][1] == ranges


def test_a_depth_that_no_ranges_leave_is_not_there() -> None:
    assert set(cheapest(3, {(0, 0): 1.0}, several=True)) == {2, 3}


def test_linear_blocks_are_replaced_without_an_error() -> None:
    torch.manual_seed(0)
    terms = [mlp(6, 12), linear(0.3 * torch.randn(6, 6)), linear(0.3 * torch.randn(6, 6), torch.randn(6)), mlp(6, 12)]
    teacher = capture_vectors(Residual(terms), 6).module
    stacks = find_stacks(teacher).stacks
    ranges = best_maps(stacks, wanted_depths(stacks, 2), FIT, Trial(teacher, HELD_OUT, "relative-l2"))
    assert ranges == (((1, 2),),)
    module = replaced(teacher, ranges, FIT, HELD_OUT)
    assert Trial(teacher, JUDGE, "relative-l2").error(module) < 1e-4
    assert operator_counts(module)["aten.linear.default"] == operator_counts(teacher)["aten.linear.default"] - 1


def test_the_network_computes_the_maps_fitted_on_the_states_of_the_teacher() -> None:
    torch.manual_seed(0)
    model = Residual([mlp(6, 12) for _ in range(5)])
    teacher = capture_vectors(model, 6).module

    def states(samples: Samples) -> list[Tensor]:
        found = [samples.arrays["x"]]
        with torch.no_grad():
            for term in model.terms:
                found.append(found[-1] + term(found[-1]))
        return found

    fit, held_out = states(FIT), states(HELD_OUT)
    maps = {
        first: fit_map(_states(fit[first]), _states(fit[end]), _states(held_out[first]), _states(held_out[end]), -1)
        for first, end in ((0, 2), (3, 4))
    }
    x = JUDGE.arrays["x"]
    with torch.no_grad():
        x = maps[0](x)
        x = x + model.terms[2](x)
        x = maps[3](x)
        x = x + model.terms[4](x)
    (output,) = predict(replaced(teacher, (((0, 1), (3, 3)),), FIT, HELD_OUT), JUDGE)
    torch.testing.assert_close(output, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_chosen_ranges_leave_the_depth_and_beat_plain_deletion_of_them(depth: int) -> None:
    teacher = vision().module
    stacks = find_stacks(teacher).stacks
    fit, trial = images(120, 0), Trial(teacher, images(60, 1), "kl")
    (ranges,) = best_maps(stacks, wanted_depths(stacks, depth), fit, trial) or ((),)
    gone = {block for first, last in ranges for block in range(first, last + 1)}
    assert len(gone) == 4 - depth
    kept = [[[t]] for block in range(4) if block not in gone for t in (2 * block, 2 * block + 1)]
    deleted, _ = rewrite(teacher, stack_plan(8, kept, "none"))
    assert trial.error(replaced(teacher, (ranges,), fit, trial.held_out)) < trial.error(deleted)


class Images(nn.Module):
    """(batch, 3, 8, 8) -> (batch, 2): a convolution, residual convolutions, a mean over positions.

    As in ConvNeXt, the state itself comes from a permutation, which says nothing of where its channels are.
    """

    def __init__(self, terms: list[nn.Module]) -> None:
        super().__init__()
        self.stem, self.terms, self.head = nn.Conv2d(3, 4, 3), nn.ModuleList(terms), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        for term in self.terms:
            x = x + term(x)
        y: Tensor = self.head(x.mean((2, 3)))
        return y


def test_on_channels_first_states_a_map_mixes_channels() -> None:
    torch.manual_seed(0)
    bent = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.GELU(), nn.Conv2d(4, 4, 1))
    module = Images([nn.Sequential(nn.Conv2d(4, 4, 1)), nn.Sequential(nn.Conv2d(4, 4, 1)), bent]).double().eval()
    teacher = capture(module, (torch.zeros(1, 3, 8, 8, dtype=torch.float64),), origin="images").module
    parts = [Samples({"x": torch.randn(count, 3, 8, 8, dtype=torch.float64)}) for count in (40, 20, 20)]
    stacks = find_stacks(teacher).stacks
    ranges = best_maps(stacks, wanted_depths(stacks, 1), parts[0], Trial(teacher, parts[1], "relative-l2"))
    assert ranges == (((0, 1),),)
    replacement = replaced(teacher, ranges, parts[0], parts[1])
    assert largest_change(predict(teacher, parts[2]), predict(replacement, parts[2])) < 1e-3


def test_ranges_of_several_stacks_share_a_depth_or_follow_a_plan() -> None:
    torch.manual_seed(0)
    teacher = capture_vectors(TwoStacks(), 6).module
    stacks = find_stacks(teacher).stacks
    trial = Trial(teacher, HELD_OUT, "relative-l2")
    plan = Plan((grouped(3, [[(0,), (1,), (2,)]]), grouped(4, [[(0,), (1,)], [(2,), (3,)]])))
    gone = []
    for target in (4, plan):
        ranges = best_maps(stacks, wanted_depths(stacks, target), FIT, trial)
        assert ranges is not None
        gone.append([sum(last - first + 1 for first, last in part) for part in ranges])
        assert 0 < trial.error(replaced(teacher, ranges, FIT, HELD_OUT)) < 1
    assert sum(gone[0]) == 3
    assert gone[1] == [2, 2]


def test_post_norm_blocks_are_replaced_with_their_norms() -> None:
    torch.manual_seed(0)
    teacher = capture_vectors(PostNorm(4), 6).module
    module = replaced(teacher, (((1, 2),),), FIT, HELD_OUT)
    assert operator_counts(module)["aten.layer_norm.default"] == 2
    assert Trial(teacher, JUDGE, "relative-l2").error(module) < 0.5
