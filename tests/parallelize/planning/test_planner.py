"""The planner: whole networks decide, for any wanted depth."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from parallelize.metrics import predict, score
from parallelize.metrics.own import own_metric
from parallelize.planning.forms import main_form, other_forms
from parallelize.planning.options import PlannerOptions
from parallelize.planning.planner import Planner
from parallelize.refitting.refit import refit
from passes.errors import ParallelizeError
from passes.plan import Plan
from tests.parallelize.planning.cases import (
    FIT,
    HELD_OUT,
    levels,
    mlps,
    needs_its_first_block,
    of_vision,
    on_vectors,
    partitions,
    post_norm,
    post_norm_blocks,
    quick,
)
from tests.parallelize.small_models import Residual, capture_vectors, mlp, vectors, vision


def test_two_stacks_share_a_depth() -> None:
    """Three terms of width 4 that need each other, then two of width 6 that add little."""

    class Unequal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = Residual([mlp(4, 8) for _ in range(3)])
            self.between = nn.Linear(4, 6)
            self.second = Residual([mlp(6, 8) for _ in range(2)], nn.Linear(6, 3))
            with torch.no_grad():
                for term in self.first.terms:
                    term[3].weight.mul_(5)
                for term in self.second.terms:
                    term[3].weight.mul_(0.05)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.second(self.between(self.first(x)))
            return y

    torch.manual_seed(0)
    program = capture_vectors(Unequal(), 4)
    options = PlannerOptions(refit="none")
    planner = Planner(program, vectors(80, 4, 0), vectors(40, 4, 1), "relative-l2", options)
    assert planner.blocks == 5
    assert planner.depths == [2, 3, 4, 5]
    for depth, (_, groups) in partitions(planner).items():
        assert sum(len(part) for part in groups) == depth
    assert [part.depth for part in planner.at_depth(4).chosen.plan.stacks] == [3, 1]
    assert [part.depth for part in planner.at_depth(2).chosen.plan.stacks] == [1, 1]


def test_a_stack_of_one_block_stays_serial_beside_one_of_many() -> None:
    class OneAndMany(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.many = (Residual([mlp(6, 12) for _ in range(count)]) for count in (1, 3))
            self.between = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.many(torch.tanh(self.between(self.one(x))))
            return y

    torch.manual_seed(0)
    planner = on_vectors(capture_vectors(OneAndMany(), 6), "relative-l2")
    assert [len(stack.blocks) for stack in planner.stacks] == [1, 3]
    assert planner.depths == [2, 3, 4]
    assert planner.at_depth(2).chosen.plan.stacks[0].is_serial


def test_a_stack_whose_last_add_has_no_norm_is_planned_as_the_others_are() -> None:
    planner = on_vectors(post_norm_blocks(3, (5,)), "relative-l2")
    assert planner.at_depth(1).chosen.depth_blocks == 1
    assert planner.depths == [1, 2, 3, 4, 5, 6]


def test_blocks_of_different_kinds_are_never_side_by_side() -> None:
    planner = Planner(vision(depth=1), FIT, HELD_OUT, "kl", PlannerOptions(refit="none"))
    assert planner.blocks == 1
    assert partitions(planner) == {1: (0.0, (((0, 0),),))}


def test_blocks_that_need_each_other_are_left_apart() -> None:
    """The first two blocks add much, the others almost nothing."""
    torch.manual_seed(0)
    terms = [mlp(6, 12) for _ in range(4)]
    with torch.no_grad():
        for term in terms[:2]:
            term[3].weight.mul_(10)
        for term in terms[2:]:
            term[3].weight.mul_(0.01)
            term[3].bias.mul_(0.01)
    planner = on_vectors(capture_vectors(Residual(terms), 6), "relative-l2", refit="none")
    assert levels(planner.at_depth(2).chosen.plan) == [(0,), (1, 2, 3)]


def test_a_form_that_makes_the_outputs_nan_is_chosen_only_where_all_do() -> None:
    planner = on_vectors(needs_its_first_block(), refit="none")
    for depth in (1, 2, 3):
        assert planner.measure(depth).scores.error("kl") < 1
    assert partitions(planner)[2][1] == (((0, 0), (1, 3)),)
    assert planner.proposal(1).stacks[0].deleted, "only a deletion has numbers at depth 1"


# ------------------------------------------------------------------------------------------------ depths


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 100])
def test_a_schedule_of_a_wanted_depth_is_never_deeper(depth: int) -> None:
    chosen = of_vision().at_depth(depth).chosen
    assert chosen.depth_blocks == min(depth, 4)
    assert chosen.plan.stacks[0].depth == 2 * chosen.depth_blocks
    assert chosen.plan.seed == 3
    (part,) = chosen.plan.stacks
    part.check()


def test_the_full_depth_is_the_serial_network() -> None:
    chosen = of_vision().at_depth(4).chosen
    assert chosen.plan.stacks[0].is_serial
    assert chosen.scores.error("kl") == 0
    assert chosen.predicted == 0


@pytest.mark.parametrize("depth", [0, -1])
def test_less_than_one_block_is_refused_with_the_least_depth(depth: int) -> None:
    with pytest.raises(
        ParallelizeError, match=rf"^No schedule is {depth} blocks deep, the shallowest has 1\.$"
    ) as caught:
        of_vision().at_depth(depth)
    assert caught.value.hint == "Ask for --depth 1 or more."
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("depth", [0, 5])
def test_a_proposal_of_a_depth_that_no_partition_has_is_refused_with_those_that_are_there(depth: int) -> None:
    for ask in (of_vision().measure, of_vision().proposal):
        with pytest.raises(ParallelizeError, match=rf"^No schedule is exactly {depth} blocks deep\.$") as caught:
            ask(depth)
        assert caught.value.hint == "There are schedules of 1, 2, 3, 4 blocks."


def test_a_candidate_carries_the_network_that_was_measured_and_its_scores() -> None:
    chosen = of_vision().at_depth(2).chosen
    again = refit(vision().module, chosen.plan, FIT, HELD_OUT)
    teacher = predict(vision().module, HELD_OUT)
    outputs = predict(chosen.refitted.module, HELD_OUT)
    assert torch.equal(outputs[0], predict(again.module, HELD_OUT)[0])
    assert chosen.scores == of_vision().judge.score(again.module)
    assert chosen.scores.error("kl") == pytest.approx(score(outputs, teacher).error("kl"), rel=1e-5)


def test_what_is_predicted_is_the_sum_of_costs_that_was_known_when_the_network_was_measured() -> None:
    planner = quick(refit="none")
    for depth in (1, 2, 3, 4):
        predicted = planner.measure(depth).predicted
        assert predicted == partitions(planner)[depth][0]
        assert (predicted == 0) == (depth == 4)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_better_of_a_proposal_with_and_without_its_refit_is_chosen(depth: int) -> None:
    errors: dict[Plan, float] = {}
    chosen = of_vision().measure(depth)
    for strength in ("affine", "none"):
        plan = chosen.plan.with_refit(strength)
        network = refit(vision().module, plan, FIT, HELD_OUT).module
        errors[plan] = of_vision().judge.score(network).error("kl")
    assert chosen.plan == min(errors, key=errors.__getitem__)
    assert chosen.scores.error("kl") == min(errors.values())


class HardTanh(nn.Module):
    """Each of two coordinates alone, down * hardtanh(up * x): no in-projection whose input could be foretold."""

    def __init__(self, up: list[float], down: list[float]) -> None:
        super().__init__()
        self.up, self.down = (nn.Parameter(torch.tensor(values, dtype=torch.float64)) for values in (up, down))

    def forward(self, x: Tensor) -> Tensor:
        return self.down * nn.functional.hardtanh(self.up * x)


def test_a_refit_that_helps_the_states_and_hurts_the_outputs_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Side by side the second term misses 0.5 sign(x_0) and 2 x_1.

    What is fitted where x_0 is positive doubles the error of coordinate 0 where it is negative, and mends coordinate 1,
    which is most of the state and which the head does not read.
    """
    head = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0]]))
    network = Residual([HardTanh([1, 0.01], [0.5, 200]), HardTanh([0.01, 0.01], [100, 100])], head)
    program = capture_vectors(network, 2)
    fit, held_out = vectors(100, 2, 0), vectors(50, 2, 1)
    fit.arrays["x"][:, 0] = torch.linspace(1, 2, 100)
    held_out.arrays["x"][:, 0] = torch.linspace(-2, -1, 50)
    monkeypatch.setattr("parallelize.planning.fusibility.Fusibility.why_not", lambda *group: None)  # no products
    planner = Planner(program, fit, held_out, "relative-l2", PlannerOptions(refit="affine"))
    (stack,) = planner.stacks
    for form in (main_form(stack, 0, 1), *other_forms(stack, 0, 1, None)):
        planner.costs.known[planner.costs.key(0, form)] = 0.0 if form == main_form(stack, 0, 1) else 1.0
    (level,) = refit(program.module, planner.proposal(1), fit, held_out).levels
    assert level.strength == "affine"
    assert level.after < 0.5 * level.before
    chosen = planner.measure(1)
    assert chosen.plan.stacks[0].refit == "none"
    assert chosen.refitted.levels == ()


def test_what_was_measured_is_listed_from_deep_to_shallow_and_measured_once() -> None:
    planner = quick(refit="none")
    first = planner.at_depth(1).chosen
    assert planner.at_depth(1).chosen is first
    planner.at_depth(3)
    assert [candidate.depth_blocks for candidate in planner.at_depth(2).measured] == [3, 2, 1]


# ------------------------------------------------------------------------------------------------ the rest


def test_a_model_without_stacks_is_refused() -> None:
    torch.manual_seed(0)
    with pytest.raises(ParallelizeError, match="no residual stack"):
        on_vectors(capture_vectors(mlp(6, 12), 6))


def test_top1_without_labels_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(ParallelizeError, match="top1-drop needs labels"):
        quick("top1-drop")


def test_labels_reach_the_metric() -> None:
    planner = Planner(vision(), FIT, HELD_OUT, "top1-drop", PlannerOptions(refit="none", longest_group=2))
    teacher = predict(vision().module, HELD_OUT)[0].argmax(1)
    assert HELD_OUT.labels is not None
    assert planner.measure(3).scores.top1_teacher == pytest.approx(float((teacher == HELD_OUT.labels).double().mean()))


def test_groups_and_networks_are_measured_by_a_metric_of_the_users_own() -> None:
    def first_class(outputs: list[Tensor], teacher: list[Tensor], batch: dict[str, Tensor]) -> Tensor:
        assert batch["x"].shape == (len(outputs[0]), 6)
        return -(outputs[0][:, 0] - teacher[0][:, 0]).square()

    metric = own_metric("first-class", first_class)
    planner = quick(metric)
    chosen = planner.at_depth(2).chosen
    outputs, teacher = (predict(m, planner.held_out)[0] for m in (chosen.refitted.module, planner.program.module))
    error = float((outputs[:, 0] - teacher[:, 0]).square().mean())
    assert chosen.scores.error(metric) == pytest.approx(error)
    assert all(cost > 0 for cost in planner.costs.known.values())


def test_a_post_norm_stack_may_share_its_norm() -> None:
    planner = on_vectors(post_norm(4), "relative-l2")
    levels_ = [level for depth in (1, 2, 3) for level in planner.proposal(depth).stacks[0].levels]
    assert any(level.shared for level in levels_)
    assert planner.at_depth(1).chosen.scores.error("relative-l2") < 1


@pytest.mark.slow
def test_a_search_repeats_to_the_bit_whatever_the_random_state() -> None:
    first = quick(seed=3)
    first.at_depth(2)
    torch.manual_seed(99)
    again = quick(seed=3)
    again.at_depth(2)
    assert partitions(again) == partitions(first)
    assert again.costs.known == first.costs.known
    assert again.at_depth(2).chosen.plan == first.at_depth(2).chosen.plan
    assert again.at_depth(2).chosen.scores == first.at_depth(2).chosen.scores


def test_progress_tells_of_groups_then_of_their_forms_and_then_of_networks() -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    planner = quick()
    planner.progress = lambda what, done, total: seen.setdefault(what, []).append((done, total))
    planner.at_depth(2)
    *stages, last = seen
    groups = [stage for stage in stages if stage.startswith("measuring groups")]
    forms = [stage for stage in stages if stage not in groups]
    assert stages[0] == "measuring groups, 1 so far"
    assert forms == [f"measuring forms of groups, round {number + 1}" for number in range(len(forms))]
    for what in forms:  # done, of all
        assert seen[what] == [(number + 1, len(seen[what])) for number in range(len(seen[what]))]
    assert last == "measuring 2 blocks deep"
    assert seen[last] == [(0, 2), (1, 2)]


def test_the_teacher_is_not_touched() -> None:
    teacher, samples = mlps().module, vectors(50, 6, 2)
    code, before = teacher.code, predict(teacher, samples)[0]
    quick(refit="full").at_depth(2)
    assert teacher.code == code
    assert torch.equal(predict(teacher, samples)[0], before)


def test_a_search_tells_what_it_took_in_forward_passes() -> None:
    planner = quick()
    assert planner.forward_passes == 0
    search = planner.at_depth(2)
    assert search.forward_passes == planner.forward_passes > 1
    assert planner.at_depth(2).forward_passes == search.forward_passes, "what is known costs nothing"
