"""States of samples on their way through a stack: rows that count, and what a level should come to."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, fx, nn

from parallelize.data import Samples
from parallelize.models.capture import capture
from parallelize.models.effort import Effort
from parallelize.models.states import Batch, Teacher, before_post, start_batches
from passes.stacks.find import Stack, find_stacks
from passes.stacks.terms import Term
from tests.parallelize.small_models import Residual, capture_vectors, mlp, vectors
from tests.passes.models import Residual as WithNorms
from tests.passes.models import graph_of, randomised

WIDTH, HIDDEN = 6, 12
SAMPLES = vectors(20, WIDTH, 0)
REAL = torch.tensor([[True, True, False], [True, False, False]])


def _batch(real: Tensor | None) -> Batch:
    two = Samples({"x": torch.zeros(2, 1)})
    nothing = two.buffer.keep(torch.zeros(0))
    return Batch(two, 0, 2, 2, nothing, nothing, real)


# -------------------------------------------------------------------------------------------------------------- rows


def test_every_position_is_a_row_in_the_order_of_the_samples() -> None:
    value = torch.arange(24.0).reshape(2, 3, 4)
    assert torch.equal(_batch(None).rows(value), value.reshape(6, 4))


@pytest.mark.parametrize("rank", [2, 3, 4, 5])
def test_channels_on_axis_1_become_columns(rank: int) -> None:
    value = torch.randn(2, 4, *range(3, 1 + rank))
    rows = _batch(None).rows(value, 1)
    assert rows.shape == (value.numel() // 4, 4)
    assert torch.equal(rows[-1], value.flatten(2)[1, :, -1] if rank > 2 else value[1])


def test_rows_at_padding_are_left_out() -> None:
    value = torch.arange(24.0).reshape(2, 3, 4)
    assert torch.equal(_batch(REAL).rows(value), value[REAL])


def test_rows_at_padding_are_left_out_of_positions_that_were_flattened() -> None:
    value = torch.arange(24.0).reshape(6, 4)
    assert torch.equal(_batch(REAL).rows(value), value.reshape(2, 3, 4)[REAL])


@pytest.mark.parametrize("channels", [3, 4])
def test_rows_at_padding_are_left_out_of_a_channels_first_state(channels: int) -> None:
    value = torch.randn(2, channels, 3)
    assert torch.equal(_batch(REAL).rows(value, 1), value.transpose(1, 2)[REAL])


def test_every_row_of_a_token_is_left_out_with_it() -> None:
    value = torch.arange(48.0).reshape(2, 3, 2, 4)
    assert torch.equal(_batch(REAL).rows(value), value[REAL].reshape(-1, 4))


class _TokensFirst(nn.Module):
    """(samples, tokens) -> a stack on (tokens, samples, width), as recurrent models and old attentions have it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.terms = nn.Linear(1, WIDTH), nn.ModuleList(mlp(WIDTH, HIDDEN) for _ in range(2))

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        y = self.embed((x * (keep >= 0)).T.unsqueeze(-1))
        for term in self.terms:
            y = y + term(y)
        return y


def test_rows_at_padding_are_left_out_where_tokens_come_before_samples() -> None:
    dims = ({0: "batch", 1: "tokens"}, {0: "batch", 1: "tokens"})
    keep = torch.tensor([[0, 1, 1], [1, 1, 1], [0, 0, 1]])  # as many samples as tokens
    x = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    module = capture(_TokensFirst().eval(), (x[:2], keep[:2]), dynamic=dims, origin="tokens first").module
    (stack,) = find_stacks(module).stacks
    (batch,) = start_batches(module, stack.terms[0].skip, Samples({"x": x, "keep": keep}, mask="keep"))
    assert torch.equal(batch.rows(batch.state.value), batch.state.value[keep.T.bool()])


def test_a_value_without_the_masks_positions_keeps_all_rows() -> None:
    value = torch.randn(2, 5, 4)
    assert torch.equal(_batch(REAL).rows(value), value.reshape(10, 4))


# ----------------------------------------------------------------------------------------------------------- batches


def test_the_teacher_and_the_rewritten_network_start_from_the_state_of_every_sample() -> None:
    graph = capture_vectors(Residual([mlp(WIDTH, HIDDEN)], scale=3.0), WIDTH).module
    batches = start_batches(graph, find_stacks(graph).stacks[0].entry, SAMPLES, 8)
    assert [len(batch.state.value) for batch in batches] == [8, 8, 4]
    torch.testing.assert_close(torch.cat([batch.state.value for batch in batches]), 3.0 * SAMPLES.arrays["x"])
    assert all(batch.teacher is batch.state and batch.real is None for batch in batches)


def test_no_samples_are_no_batches() -> None:
    graph = capture_vectors(Residual([mlp(WIDTH, HIDDEN)]), WIDTH).module
    assert start_batches(graph, find_stacks(graph).stacks[0].entry, SAMPLES.head(0), 8) == []


# ------------------------------------------------------------------------------------------------------- the teacher


def _walk(model: Residual, ran: Sequence[int] = ()) -> tuple[Teacher, list[Batch], list[Tensor]]:
    """A teacher that stands before the terms that have not run, its batch there, and all its states."""
    program = capture_vectors(model, WIDTH)
    stack = find_stacks(program.module).stacks[0]
    x = SAMPLES.arrays["x"]
    with torch.no_grad():
        states = [x]
        for term in model.terms:
            states.append(states[-1] + term(states[-1]))
    start = states[len(ran)]
    kept = SAMPLES.buffer.keep(start)
    return Teacher(program.module, stack, ran), [Batch(SAMPLES, 0, len(SAMPLES), len(SAMPLES), kept, kept)], states


def _advance(teacher: Teacher, terms: Sequence[int], owner: Term | None, batches: Sequence[Batch]) -> list[Tensor]:
    """Let terms run; the targets."""
    step = teacher.step(terms, owner)
    values = list(teacher.values(step.nodes, batches))
    reached = [step.reach(batch, each) for batch, each in zip(batches, values, strict=True)]
    teacher.take(step, batches, [state for _, state in reached])
    return [target.value for target, _ in reached]


def _model() -> Residual:
    torch.manual_seed(0)
    model = Residual([mlp(WIDTH, HIDDEN) for _ in range(4)])
    model.double().eval()
    return model


@pytest.mark.parametrize("first", [0, 1])
def test_after_a_prefix_the_target_is_the_teachers_state_and_the_teacher_moves_on(first: int) -> None:
    teacher, batches, states = _walk(_model(), range(first))
    (target,) = _advance(teacher, [2, 1] if first else [0, 1, 2], None, batches)
    torch.testing.assert_close(target, states[3], rtol=0, atol=1e-12)
    torch.testing.assert_close(batches[0].teacher.value, states[3], rtol=0, atol=1e-12)
    assert teacher.prefix == 3


def test_after_terms_with_a_gap_the_target_is_the_sum_of_the_teachers_own_and_the_teacher_waits() -> None:
    teacher, batches, states = _walk(_model())
    (target,) = _advance(teacher, [0, 2], None, batches)
    expected = states[1] + (states[3] - states[2])
    torch.testing.assert_close(target, expected, rtol=0, atol=1e-12)
    assert teacher.prefix == 0
    assert torch.equal(batches[0].teacher.value, states[0])
    (target,) = _advance(teacher, [1, 3], None, batches)
    torch.testing.assert_close(target, states[4], rtol=0, atol=1e-12)


def test_values_of_the_teacher_are_those_of_its_own_states() -> None:
    teacher, batches, states = _walk(_model(), [0, 1])
    terms = teacher.stack.terms
    (values,) = teacher.values([terms[2].skip, terms[2].output, terms[3].result], batches[:1])
    for value, expected in zip(values, (states[2], states[3] - states[2], states[4]), strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)


def test_a_step_that_other_terms_wait_for_leaves_its_states_to_the_next_one() -> None:
    """As in sublayer form: first the even terms, then the odd ones; the teacher's first three terms run once."""
    targets, products = [], []
    for notes in (True, False):
        teacher, batches, states = _walk(_model())
        first = teacher.step([0, 2], None)
        (values,) = teacher.values(first.nodes, batches, first.ahead if notes else ())
        reached = first.reach(batches[0], values)
        teacher.take(first, batches, [reached[1]])
        for kept, state in zip(batches[0].ahead.values(), (states[1], states[3]) if notes else (), strict=True):
            torch.testing.assert_close(kept.value, state, rtol=0, atol=1e-12)
        effort = Effort()
        with effort.counting():
            targets.append(_advance(teacher, [1, 3], None, batches)[0])
        assert not batches[0].ahead
        products.append(effort.products)
    assert targets[0].equal(targets[1])
    torch.testing.assert_close(targets[0], states[4], rtol=0, atol=1e-12)
    assert products[0] * 4 == products[1]  # the last term and not all four


# ------------------------------------------------------------------------------------------- what a norm should read


def _post_norm(*posts: nn.Module) -> tuple[WithNorms, fx.GraphModule, Stack]:
    model = WithNorms([nn.Linear(WIDTH, WIDTH) for _ in posts], posts)
    randomised(model)
    graph = graph_of(model, SAMPLES.arrays["x"])
    (stack,) = find_stacks(graph).stacks
    return model, graph, stack


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_where_the_norm_is_the_terms_own_the_target_is_the_teachers_own_sum(norm: type[nn.LayerNorm]) -> None:
    model, graph, stack = _post_norm(norm(WIDTH), norm(WIDTH))
    last = stack.terms[1]
    total = SAMPLES.arrays["x"]
    with torch.no_grad():
        state = model.posts[1](total)
    assert before_post(graph, last, last, state, total) is total


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_where_another_norm_follows_the_target_is_what_it_maps_to_the_state(norm: type[nn.LayerNorm]) -> None:
    """Also the mean and spread are the teacher's own, which the norm would not tell."""
    model, graph, stack = _post_norm(norm(WIDTH), norm(WIDTH))
    owner, last = stack.terms[0], stack.terms[1]
    total, other = SAMPLES.arrays["x"], vectors(20, WIDTH, 1).arrays["x"]
    with torch.no_grad():
        state = model.posts[0](other)
        found = before_post(graph, owner, last, state, total)
        torch.testing.assert_close(model.posts[0](found), state, rtol=0, atol=1e-3)
    if norm is nn.LayerNorm:
        torch.testing.assert_close(found.mean(-1), total.mean(-1), rtol=0, atol=1e-3)
        torch.testing.assert_close(found.std(-1), total.std(-1), rtol=1e-3, atol=0)
    else:
        torch.testing.assert_close(found.square().mean(-1), total.square().mean(-1), rtol=1e-3, atol=0)


def test_where_a_channel_has_no_gain_the_target_is_finite() -> None:
    model, graph, stack = _post_norm(nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH))
    with torch.no_grad():
        model.posts[0].weight[2] = 0  # type: ignore[index, operator]
        graph = graph_of(model, SAMPLES.arrays["x"])
        (stack,) = find_stacks(graph).stacks
        state = model.posts[0](vectors(20, WIDTH, 1).arrays["x"])
        found = before_post(graph, stack.terms[0], stack.terms[1], state, SAMPLES.arrays["x"])
    assert found.isfinite().all()


def test_a_norm_without_gain_and_shift_is_mapped_back_too() -> None:
    plain = nn.LayerNorm(WIDTH, elementwise_affine=False)
    _, graph, stack = _post_norm(plain, nn.LayerNorm(WIDTH))
    with torch.no_grad():
        state = plain(vectors(20, WIDTH, 1).arrays["x"])
        found = before_post(graph, stack.terms[0], stack.terms[1], state, SAMPLES.arrays["x"])
        torch.testing.assert_close(plain(found), state, rtol=0, atol=1e-3)


def test_before_an_activation_the_target_is_the_teachers_own_sum() -> None:
    _, graph, stack = _post_norm(nn.ReLU(), nn.ReLU())
    assert len(stack.terms) == 2
    total = SAMPLES.arrays["x"]
    assert before_post(graph, stack.terms[0], stack.terms[1], torch.relu(total + 1), total) is total


def test_the_target_under_a_shared_norm_is_the_sum_before_the_teachers_last_norm() -> None:
    model, graph, stack = _post_norm(nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH))
    x = SAMPLES.arrays["x"]
    with torch.no_grad():
        middle = model.posts[0](x + model.terms[0](x))
        total = middle + model.terms[1](middle)
    batches = start_batches(graph, stack.entry, Samples({"x": x}))
    (target,) = _advance(Teacher(graph, stack), [0, 1], stack.terms[1], batches)
    torch.testing.assert_close(target, total, rtol=0, atol=1e-12)
    torch.testing.assert_close(batches[0].teacher.value, model.posts[1](total).detach(), rtol=0, atol=1e-12)
