"""A level gets the ridge solution of the textbook, for the targets and states that it should have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from parallelize.models.program import Program
from parallelize.refitting.refit import refit
from parallelize.refitting.ridge import RIDGES
from parallelize.refitting.walk import WORTHWHILE
from passes.plan import Refit
from passes.schedule.apply_plan import rewrite
from tests.parallelize.refitting.four_mlps import (
    FIT,
    HELD_OUT,
    HIDDEN,
    JUDGE,
    WIDTH,
    distance,
    linears,
    outputs,
    seeded,
)
from tests.parallelize.small_models import Residual, capture_vectors, mlp, stack_plan

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
    torch.testing.assert_close(outputs(refitted.module, JUDGE), expected, rtol=0, atol=1e-7)


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
    measured = distance(refitted.module, program.module, HELD_OUT) ** 2
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
    network = seeded(lambda: Residual([nn.Sequential(mlp(WIDTH, HIDDEN), nn.Tanh()) for _ in range(4)]))
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
    assert distance(refitted.module, teacher, JUDGE) < 0.8 * distance(as_is, teacher, JUDGE)


def test_terms_with_norms_of_their_own_get_a_full_refit_by_branches_apart() -> None:
    """The two out-projections stay; each term and the affine part get a linear from features to the sum."""
    teacher = capture_vectors(seeded(PostNorm), WIDTH).module
    plan = stack_plan(4, [[[0], [1]], [[2], [3]]], "full")
    as_is, _ = rewrite(teacher, plan)
    refitted = refit(teacher, plan, FIT, HELD_OUT)
    assert [(level.strength, level.skipped) for level in refitted.levels] == [("full", ())] * 2
    assert linears(refitted.module) == linears(as_is) + 2 * 3
    assert distance(refitted.module, teacher, JUDGE) < 0.5 * distance(as_is, teacher, JUDGE)
