"""The refit: nearer to the teacher on samples it never saw, by the closed form, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from parallelize.data import Samples
from parallelize.metrics import predict, score
from parallelize.models.program import Program
from parallelize.models.states import placeholders, run_segment
from parallelize.refitting.records import LevelRefit
from parallelize.refitting.refit import refit
from parallelize.refitting.ridge import RIDGES
from parallelize.refitting.walk import WORTHWHILE
from passes.errors import ParallelizeError
from passes.graph.measures import operator_counts, parameter_count
from passes.graph.operators import LINEAR
from passes.graph.segment import extract
from passes.plan import Plan, Refit, serial
from passes.schedule.apply_plan import rewrite
from passes.stacks.find import find_stacks
from tests.parallelize.small_models import (
    Residual,
    capture_vectors,
    images,
    mlp,
    pairs,
    stack_plan,
    vectors,
    vision,
)

WIDTH, HIDDEN = 6, 12
FIT, HELD_OUT, JUDGE = (vectors(count, WIDTH, seed) for seed, count in enumerate((300, 80, 100)))
IMAGES = tuple(images(count, seed) for seed, count in enumerate((200, 80, 80)))


def _seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


@pytest.fixture(scope="module")
def model() -> Residual:
    """Four MLPs behind norms; the output is the state."""
    network = _seeded(lambda: Residual([mlp(WIDTH, HIDDEN) for _ in range(4)]))
    assert isinstance(network, Residual)
    return network.double().eval()


@pytest.fixture(scope="module")
def program(model: Residual) -> Program:
    return capture_vectors(model, WIDTH)


def _distance(module: fx.GraphModule, teacher: fx.GraphModule, samples: Samples) -> float:
    return score(predict(module, samples), predict(teacher, samples)).relative_l2


def _linears(module: fx.GraphModule) -> int:
    return len(module.graph.find_nodes(op="call_function", target=LINEAR))


def _outputs(module: fx.GraphModule, samples: Samples) -> Tensor:
    (outputs,) = predict(module, samples)
    return outputs


# ----------------------------------------------------------------------------------------------- what it is good for


@pytest.mark.parametrize("strength", ["affine", "full"])
def test_the_refitted_rewrite_is_much_nearer_to_the_teacher_on_samples_it_never_saw(strength: Refit) -> None:
    teacher = vision().module
    fit, held_out, judge = IMAGES
    as_is, _ = rewrite(teacher, pairs(strength))
    refitted = refit(teacher, pairs(strength), fit, held_out)
    assert _distance(refitted.module, teacher, judge) < 0.6 * _distance(as_is, teacher, judge)
    assert [level.strength for level in refitted.levels] == [strength] * 4
    assert [level.level for level in refitted.levels] == [0, 1, 2, 3]
    assert all(level.after < level.before and level.ridge in RIDGES for level in refitted.levels)


@pytest.mark.parametrize("levels", [[[[0], [1]], [[2], [3]]], [[[0, 1], [2, 3]]], [[[0]], [[1]], [[3]]], [[[1]]]])
def test_a_full_refit_is_at_least_as_good_as_an_affine_one_on_the_samples_of_the_fit(
    program: Program, levels: list[list[list[int]]]
) -> None:
    affine, full = (refit(program.module, stack_plan(4, levels, strength), FIT, FIT) for strength in ("affine", "full"))
    pairs_of_levels = list(zip(affine.levels, full.levels, strict=True))
    first = next(number for number, level in enumerate(affine.levels) if level.before > 0)
    assert full.levels[first].after <= affine.levels[first].after
    assert full.levels[first].before == affine.levels[first].before
    assert all(b.after <= b.before and a.after <= a.before for a, b in pairs_of_levels)
    distances = [_distance(refitted.module, program.module, FIT) for refitted in (full, affine)]
    assert distances == sorted(distances)


def test_a_linear_problem_is_solved_by_the_affine_part_alone() -> None:
    network = _seeded(lambda: Residual([nn.Linear(WIDTH, WIDTH) for _ in range(3)]))
    teacher = capture_vectors(network, WIDTH).module
    plan = stack_plan(3, [[[0], [1], [2]]], "affine")
    as_is, _ = rewrite(teacher, plan)
    refitted = refit(teacher, plan, FIT, HELD_OUT)
    assert _distance(as_is, teacher, JUDGE) > 0.1
    assert _distance(refitted.module, teacher, JUDGE) < 1e-5
    assert refitted.levels[0].after < 1e-10


def test_a_deleted_linear_term_is_learned_by_what_is_left() -> None:
    network = _seeded(lambda: Residual([nn.Linear(WIDTH, WIDTH) for _ in range(3)]))
    teacher = capture_vectors(network, WIDTH).module
    refitted = refit(teacher, stack_plan(3, [[[0]], [[2]]], "affine"), FIT, HELD_OUT)
    assert _distance(refitted.module, teacher, JUDGE) < 1e-5


def _as_is_equals_refitted(teacher: fx.GraphModule, plan: Plan, fit: Samples, held_out: Samples) -> LevelRefit:
    """Refit a plan of one level, check that nothing was changed, and return the record."""
    as_is, _ = rewrite(teacher, plan)
    refitted = refit(teacher, plan, fit, held_out)
    for samples in (fit, held_out):
        assert torch.equal(_outputs(refitted.module, samples), _outputs(as_is, samples))
    assert parameter_count(refitted.module) == parameter_count(as_is)
    assert operator_counts(refitted.module) == operator_counts(as_is)
    (level,) = refitted.levels
    return level


class Clipped(nn.Module):
    """hardtanh(x) / 2: one half above 1, minus one half below -1."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.up.weight, 1.0)
        nn.init.constant_(self.down.weight, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(F.hardtanh(self.up(x)))
        return y


@pytest.mark.parametrize("strength", ["affine", "full"])
def test_what_helps_the_samples_of_the_fit_and_hurts_held_out_ones_is_not_applied(strength: Refit) -> None:
    """Side by side, the identity misses what Clipped adds: 0.5 above 1, where it is fitted, -0.5 where it is judged.

    The bias lets both the read-in and the read-out fit a constant, and only that.
    """
    identity = nn.Linear(1, 1)
    nn.init.constant_(identity.weight, 1.0)
    nn.init.constant_(identity.bias, 0.0)
    teacher = capture_vectors(Residual([Clipped(), identity]), 1).module
    plan = stack_plan(2, [[[0], [1]]], strength)
    above = Samples({"x": torch.linspace(1, 2, 50, dtype=torch.float64)[:, None]})
    below = Samples({"x": -above.arrays["x"]})
    level = _as_is_equals_refitted(teacher, plan, above, below)
    assert (level.strength, level.ridge, level.read_ins) == ("none", 0.0, ())
    assert level.before == level.after > 0
    helped = refit(teacher, plan, above, above)
    assert helped.levels[0].after < 1e-8
    assert _distance(helped.module, teacher, above) < 1e-4


def test_a_level_that_is_exact_already_is_left_alone(program: Program) -> None:
    refitted = refit(program.module, stack_plan(4, [[[0]], [[1]], [[2], [3]]], "full"), FIT, HELD_OUT)
    assert refitted.levels[:2] == tuple(LevelRefit("terms", number, "none", 0.0, 0.0, 0.0) for number in (0, 1))
    assert refitted.levels[2].strength == "full"


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 1000), samples=st.integers(2, 40), strength=st.sampled_from(["affine", "full"]))
def test_no_level_gets_worse_on_held_out_samples_however_few_fitted_it(
    program: Program, seed: int, samples: int, strength: Refit
) -> None:
    plan = stack_plan(4, [[[0], [1]], [[2], [3]]], strength)
    for level in refit(program.module, plan, vectors(samples, WIDTH, seed), HELD_OUT).levels:
        assert level.after <= level.before
        assert (level.strength == "none" and not level.read_ins) == (level.after == level.before)


# -------------------------------------------------------------------------------------------- the closed form itself


Hidden = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ReadIn:
    """What a textbook says of how a term should read: norm(x) + norm(x) A + b, and the error that is left."""

    matrix: Tensor
    shift: Tensor
    left: float


def _textbook(features: Tensor, missing: Tensor, ridge: float) -> Tensor:
    sizes = features.square().sum(0)
    sizes[-1] = 0
    return torch.linalg.solve(features.T @ features + ridge * torch.diag(sizes), features.T @ missing)


def _best(fit: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor]) -> tuple[float, float, Tensor]:
    """The least sum of squares on held-out rows, its ridge and its solution; pairs are features and what is missing."""
    tried = []
    for ridge in RIDGES:
        solution = _textbook(*fit, ridge)
        tried.append((float((held_out[0] @ solution - held_out[1]).square().sum()), ridge, solution))
    return min(tried, key=lambda found: found[0])


def _with_one(*columns: Tensor) -> Tensor:
    return torch.cat([*columns, torch.ones(len(columns[0]), 1, dtype=columns[0].dtype)], 1)


def _foretell(model: Residual, term: int, ours: Sequence[Tensor], teachers: Sequence[Tensor]) -> ReadIn | None:
    """The read-in of a term, from states to fit on and to choose on; None where it is not worth it."""
    norm = model.terms[term][0]
    have, want = ([norm(state) for state in states] for states in (ours, teachers))
    fit, held_out = ((_with_one(x), y - x) for x, y in zip(have, want, strict=True))
    size = float(held_out[1].square().sum())
    if size == 0:
        return None
    error, _, solution = _best(fit, held_out)
    return ReadIn(solution[:-1], solution[-1], error / size) if error / size <= WORTHWHILE else None


def _hidden(model: Residual, term: int, read_in: ReadIn | None) -> Hidden:
    """The hidden activations of a term with what it reads foretold."""
    norm, up, activation, _ = model.terms[term]

    def hidden(x: Tensor) -> Tensor:
        h = norm(x)
        read = h if read_in is None else h + h @ read_in.matrix + read_in.shift
        y: Tensor = activation(up(read))
        return y

    return hidden


def _sum(model: Residual, hidden: dict[int, Hidden], x: Tensor) -> Tensor:
    """x and all terms of a level, their out-projections as they were."""
    return x + sum(model.terms[term][3](read(x)) for term, read in hidden.items())


def _features(hidden: dict[int, Hidden], x: Tensor, strength: Refit) -> Tensor:
    """Hidden activations of the terms that read x, the plain norm of x, and 1."""
    outer = [read(x) for read in hidden.values()] if strength == "full" else []
    return _with_one(*outer, F.layer_norm(x, (WIDTH,)))


@pytest.mark.parametrize("strength", ["affine", "full"])
@pytest.mark.parametrize("terms", [(0, 1, 2, 3), (1, 3)])
def test_one_level_gets_the_ridge_solution_of_the_textbook_first_for_what_it_reads_then_for_its_sum(
    model: Residual, program: Program, terms: tuple[int, ...], strength: Refit
) -> None:
    plan = stack_plan(4, [[[term] for term in terms]], strength)
    refitted = refit(program.module, plan, FIT, HELD_OUT)
    (level,) = refitted.levels

    with torch.no_grad():
        fit, held_out, judge = (samples.arrays["x"] for samples in (FIT, HELD_OUT, JUDGE))
        trained = [_teacher_states(model, x) for x in (fit, held_out)]
        read_ins = {n: _foretell(model, n, (fit, held_out), [states[n] for states in trained]) for n in terms}
        hidden = {number: _hidden(model, number, read_in) for number, read_in in read_ins.items()}
        equations = [(_features(hidden, x, strength), model(x) - _sum(model, hidden, x)) for x in (fit, held_out)]
        error, ridge, solution = _best(*equations)
        expected = _sum(model, hidden, judge) + _features(hidden, judge, strength) @ solution
        target = model(held_out)
        as_scheduled = held_out + sum(model.terms[term](held_out) for term in terms)
        size = float(target.square().sum())

    assert read_ins[terms[-1]] is not None
    assert level.strength == strength
    assert level.ridge == ridge
    assert level.read_ins == tuple(
        (number, pytest.approx(read_in.left, rel=1e-6)) for number, read_in in read_ins.items() if read_in is not None
    )
    assert level.before == pytest.approx(float((as_scheduled - target).square().sum()) / size)
    assert level.after == pytest.approx(error / size, rel=1e-5)
    torch.testing.assert_close(_outputs(refitted.module, JUDGE), expected, rtol=0, atol=1e-7)


def _teacher_states(model: Residual, x: Tensor) -> list[Tensor]:
    states = [x]
    for term in model.terms:
        states.append(states[-1] + term(states[-1]))
    return states


@pytest.mark.parametrize(
    ("levels", "ran", "meant"),
    [
        ([[[0], [1]], [[2], [3]]], (0, 1), (0, 1)),
        ([[[0], [2]], [[1], [3]]], (0, 2), (0, 2)),
        ([[[0], [3]], [[1], [2]]], (0, 3), (0, 3)),
        ([[[0]], [[2]], [[3]]], (0,), (0, 1)),
        ([[[1]], [[2]], [[3]]], (1,), (0, 1)),
        ([[[0]]], (0,), (0, 1, 2, 3)),
        ([[[0], [3]], [[1]]], (0, 3), (0, 3)),
        ([[[1], [3]], [[2]]], (1, 3), (0, 1, 3)),
    ],
    ids=["pairs", "interleaved", "first and last", "second gone", "first gone", "one left", "third gone later", "both"],
)
def test_the_target_of_a_level_is_the_sum_of_the_teachers_terms_that_ran_and_of_deleted_ones_behind_which_none_waits(
    model: Residual, program: Program, levels: list[list[list[int]]], ran: tuple[int, ...], meant: tuple[int, ...]
) -> None:
    x = HELD_OUT.arrays["x"]
    with torch.no_grad():
        states = _teacher_states(model, x)
        state = x + sum(model.terms[term](x) for term in ran)
        target = x + sum(model.terms[term](states[term]) for term in meant)
        expected = float((state - target).square().sum() / target.square().sum())
    level = refit(program.module, stack_plan(4, levels, "affine"), FIT, HELD_OUT).levels[0]
    assert level.before == pytest.approx(expected, rel=1e-9)


def test_the_target_of_the_last_level_is_the_end_of_the_teacher_whatever_was_deleted(
    model: Residual, program: Program
) -> None:
    """The first two levels are exact and left alone; the third answers for the deleted fourth term."""
    refitted = refit(program.module, stack_plan(4, [[[0]], [[1]], [[2]]], "affine"), FIT, HELD_OUT)
    with torch.no_grad():
        states = _teacher_states(model, HELD_OUT.arrays["x"])
    expected = float((states[3] - states[4]).square().sum() / states[4].square().sum())
    assert [level.before for level in refitted.levels] == [0, 0, pytest.approx(expected)]


def test_a_level_starts_from_the_states_that_the_refitted_levels_before_it_left(
    model: Residual, program: Program
) -> None:
    refitted = refit(program.module, stack_plan(4, [[[0], [1]], [[2], [3]]], "full"), FIT, FIT)
    with torch.no_grad():
        x = FIT.arrays["x"]
        states = _teacher_states(model, x)
        read_in = _foretell(model, 1, (x, x), (states[1], states[1]))
        hidden = {0: _hidden(model, 0, None), 1: _hidden(model, 1, read_in)}
        state, features = _sum(model, hidden, x), _features(hidden, x, "full")
        state = state + features @ _textbook(features, states[2] - state, refitted.levels[0].ridge)
        state = state + model.terms[2](state) + model.terms[3](state)
    expected = float((state - states[4]).square().sum() / states[4].square().sum())
    assert read_in is not None
    assert refitted.levels[1].before == pytest.approx(expected, rel=1e-6)


def test_the_last_record_is_the_error_of_the_whole_network_on_held_out_samples(program: Program) -> None:
    refitted = refit(program.module, stack_plan(4, [[[0], [1]], [[2], [3]]], "full"), FIT, HELD_OUT)
    measured = _distance(refitted.module, program.module, HELD_OUT) ** 2
    assert measured == pytest.approx(refitted.levels[-1].after, rel=1e-6)


class PostNorm(nn.Module):
    """x = norm(x + term(x)) for each term."""

    def __init__(self) -> None:
        super().__init__()
        self.terms = nn.ModuleList(mlp(WIDTH, HIDDEN)[1:] for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = 1.0 * x
        for term, norm in zip(self.terms, self.norms, strict=True):
            x = norm(x + term(x))
        return x


def test_terms_that_do_not_end_in_a_linear_get_an_affine_refit_and_a_reason() -> None:
    network = _seeded(lambda: Residual([nn.Sequential(mlp(WIDTH, HIDDEN), nn.Tanh()) for _ in range(4)]))
    teacher = capture_vectors(network, WIDTH).module
    plan = stack_plan(4, [[[0], [1]], [[2], [3]]], "full")
    as_is, _ = rewrite(teacher, plan)
    refitted = refit(teacher, plan, FIT, HELD_OUT)
    for level in refitted.levels:
        assert level.strength == "affine"
        assert [skip.reason for skip in level.skipped] == [
            f"{skip.node} is aten.tanh.default and not a linear layer or convolution with stored weights"
            for skip in level.skipped
        ]
        assert len(level.skipped) == 2
    assert _distance(refitted.module, teacher, JUDGE) < 0.8 * _distance(as_is, teacher, JUDGE)


def test_terms_with_norms_of_their_own_get_a_full_refit_by_branches_apart() -> None:
    """The two out-projections stay; each term and the affine part get a linear from features to the sum."""
    teacher = capture_vectors(_seeded(PostNorm), WIDTH).module
    plan = stack_plan(4, [[[0], [1]], [[2], [3]]], "full")
    as_is, _ = rewrite(teacher, plan)
    refitted = refit(teacher, plan, FIT, HELD_OUT)
    assert [(level.strength, level.skipped) for level in refitted.levels] == [("full", ())] * 2
    assert _linears(refitted.module) == _linears(as_is) + 2 * 3
    assert _distance(refitted.module, teacher, JUDGE) < 0.5 * _distance(as_is, teacher, JUDGE)


# ---------------------------------------------------------------------------------------------------- what it leaves


def test_a_plan_without_a_refit_only_rewrites() -> None:
    teacher = vision().module
    as_is, _ = rewrite(teacher, pairs("none"))
    refitted = refit(teacher, pairs("none"), *IMAGES[:2])
    assert refitted.levels == ()
    assert torch.equal(_outputs(refitted.module, IMAGES[2]), _outputs(as_is, IMAGES[2]))


def _values(module: fx.GraphModule, names: Sequence[str], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    nodes = {node.name: node for node in module.graph.nodes}
    return run_segment(extract(module, placeholders(module), [nodes[name] for name in names]), inputs)


def test_the_states_that_should_agree_do_in_a_serial_network() -> None:
    program = vision()
    result = refit(program.module, Plan((serial(8),)), IMAGES[0], IMAGES[1])
    ours, theirs = zip(*result.ends, strict=True)
    (batch,) = images(4, 2).batches(4)
    left, right = _values(result.module, ours, batch), _values(program.module, theirs, batch)
    assert len(left) == 8
    assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("strength", ["none", "full"])
def test_states_should_agree_where_a_group_or_what_was_deleted_after_it_ends(strength: Refit) -> None:
    program = vision()
    plan = stack_plan(8, [[[0], [2]], [[1], [3]], [[4]]], strength)
    result = refit(program.module, plan, IMAGES[0], IMAGES[1])
    terms = find_stacks(program.module).stacks[0].terms
    assert [theirs for _, theirs in result.ends] == [terms[3].result.name, terms[7].result.name]
    names = {node.name for node in result.module.graph.nodes}
    assert all(ours in names for ours, _ in result.ends)


@pytest.mark.parametrize("strength", ["affine", "full"])
def test_a_serial_plan_changes_nothing_at_any_strength(program: Program, strength: Refit) -> None:
    refitted = refit(program.module, Plan((serial(4),)).with_refit(strength), FIT, HELD_OUT)
    assert refitted.levels == ()
    assert torch.equal(_outputs(refitted.module, JUDGE), _outputs(program.module, JUDGE))


def test_the_teacher_is_not_touched() -> None:
    teacher = vision().module
    code, outputs = teacher.code, _outputs(teacher, IMAGES[2])
    state = {name: value.clone() for name, value in teacher.state_dict().items()}
    refit(teacher, pairs("full"), *IMAGES[:2])
    assert teacher.code == code
    assert list(teacher.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in teacher.state_dict().items())
    assert torch.equal(_outputs(teacher, IMAGES[2]), outputs)


def test_the_samples_are_not_touched(program: Program) -> None:
    before = FIT.arrays["x"].clone(), HELD_OUT.arrays["x"].clone()
    refit(program.module, stack_plan(4, [[[0], [1], [2], [3]]], "full"), FIT, HELD_OUT)
    assert torch.equal(FIT.arrays["x"], before[0])
    assert torch.equal(HELD_OUT.arrays["x"], before[1])


def test_a_refit_repeats_to_the_bit_whatever_the_random_state() -> None:
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        runs.append(refit(vision().module, pairs("full"), *IMAGES[:2]))
    assert runs[0].levels == runs[1].levels
    assert torch.equal(_outputs(runs[0].module, IMAGES[2]), _outputs(runs[1].module, IMAGES[2]))


def test_the_size_of_a_batch_does_not_matter(program: Program) -> None:
    plan = stack_plan(4, [[[0], [1]], [[2], [3]]], "full")
    large, small = (refit(program.module, plan, FIT, HELD_OUT, batch_size) for batch_size in (1000, 7))
    torch.testing.assert_close(_outputs(large.module, JUDGE), _outputs(small.module, JUDGE), rtol=0, atol=1e-7)
    for a, b in zip(large.levels, small.levels, strict=True):
        assert (a.strength, a.ridge) == (b.strength, b.ridge)
        assert a.before == pytest.approx(b.before)
        assert a.after == pytest.approx(b.after)


def test_the_refitted_graph_runs_at_every_batch_size() -> None:
    refitted = refit(vision().module, pairs("full"), *IMAGES[:2]).module
    whole = _outputs(refitted, IMAGES[2])
    for size in (1, 3):
        torch.testing.assert_close(refitted(IMAGES[2].arrays["images"][:size]), whole[:size])


def test_progress_counts_the_levels(program: Program) -> None:
    seen: list[tuple[int, int]] = []
    plan = stack_plan(4, [[[0], [1]], [[2]], [[3]]], "affine")
    refit(program.module, plan, FIT, HELD_OUT, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_refit_without_samples_is_refused(program: Program) -> None:
    with pytest.raises(ParallelizeError, match="needs samples to fit on and samples to choose on") as caught:
        refit(program.module, stack_plan(4, [[[0], [1], [2], [3]]], "affine"), FIT.head(0), HELD_OUT)
    assert "--inputs" in caught.value.hint


def test_a_model_whose_input_is_the_state_can_be_refitted() -> None:
    networks = [
        _seeded(lambda scale=scale: Residual([mlp(WIDTH, HIDDEN) for _ in range(4)], scale=scale))
        for scale in (None, 1.0)
    ]
    plan = stack_plan(4, [[[0], [2]], [[1], [3]]], "full")
    bare, scaled = (refit(capture_vectors(network, WIDTH).module, plan, FIT, HELD_OUT) for network in networks)
    assert bare.levels == scaled.levels
    assert torch.equal(_outputs(bare.module, JUDGE), _outputs(scaled.module, JUDGE))
