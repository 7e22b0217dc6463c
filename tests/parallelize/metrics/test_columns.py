"""What a sample adds: padding counts nowhere, tokens count one by one, sizes of pieces do not matter."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from parallelize.metrics import Scores, columns, known_metrics
from parallelize.metrics.batch import logit_axes
from parallelize.metrics.columns import Reference, joined

REAL = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1], [1, 1, 0, 0]]).bool()
TOKENS = torch.tensor([[0, 1, 2, 0], [0, 2, 1, 1], [2, 0, 1, 0]])


def _logits(seed: int) -> Tensor:
    return torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _scores(ours: Tensor, teacher: Tensor, real: Tensor | None = REAL) -> Scores:
    return Scores(Reference([teacher], [real], tokens=TOKENS, by_token=True).compare([ours]))


def test_padding_counts_in_no_metric_whatever_stands_there() -> None:
    ours, teacher = _logits(0), _logits(1)
    clean = _scores(ours, teacher)
    garbage = torch.full_like(ours, torch.nan)
    spoiled = _scores(ours.where(REAL[..., None], garbage), teacher.where(REAL[..., None], -garbage))
    measured = [name for name in known_metrics() if clean.has(name)]
    assert set(measured) == {"kl", "relative-l2", "cosine", "disagreement", "perplexity"}
    assert [spoiled.error(name) for name in measured] == [clean.error(name) for name in measured]
    assert clean.error("kl") != _scores(ours, teacher, None).error("kl")


def test_distances_with_padding_are_those_of_the_real_positions() -> None:
    ours, teacher = _logits(0), _logits(1)
    y, t = ours[REAL], teacher[REAL]
    assert _scores(ours, teacher).relative_l2 == pytest.approx(float((y - t).norm() / t.norm()))


def test_kl_and_disagreement_of_tokens_are_means_over_tokens() -> None:
    ours, teacher = _logits(0), _logits(1)
    log_q, log_p = ours[REAL].log_softmax(1), teacher[REAL].log_softmax(1)
    scores = _scores(ours, teacher)
    assert scores.kl == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum(1).mean()))
    moved = (ours[REAL].argmax(1) != teacher[REAL].argmax(1)).double().mean()
    assert scores.error("disagreement") == pytest.approx(float(moved))


def test_perplexity_is_that_of_real_tokens_after_real_tokens() -> None:
    ours, teacher = _logits(0), _logits(1)

    def perplexity(logits: Tensor) -> float:
        pairs = [(0, 0), (0, 1), (1, 1), (1, 2), (2, 0)]  # sample, position of a real token with a real one behind it
        nats = [-float(logits[s, p].log_softmax(0)[TOKENS[s, p + 1]]) for s, p in pairs]
        return math.exp(sum(nats) / len(nats))

    scores = _scores(ours, teacher)
    assert scores.value("perplexity") == pytest.approx(perplexity(ours))
    assert scores.serial("perplexity") == pytest.approx(perplexity(teacher))
    assert scores.error("perplexity") == pytest.approx(perplexity(ours) / perplexity(teacher) - 1)


def test_uniform_logits_have_the_size_of_the_vocabulary_as_perplexity() -> None:
    assert _scores(torch.zeros(3, 4, 3), _logits(1), None).value("perplexity") == pytest.approx(3)


def test_hidden_states_are_no_logits_unless_a_metric_of_tokens_is_asked_for() -> None:
    states = Scores(Reference([_logits(1)], [None]).compare([_logits(0)]))
    assert [name for name in known_metrics() if states.has(name)] == ["relative-l2", "cosine"]


def test_a_mask_covers_only_its_own_output() -> None:
    covered, other = _logits(1), torch.ones(3, 2)
    ours = [covered.where(REAL[..., None], torch.zeros(())), other + 1]
    scores = Scores(Reference([covered, other], [REAL, None]).compare(ours))
    assert scores.relative_l2 == pytest.approx(math.sqrt(6 / (float(covered[REAL].square().sum()) + 6)))


@pytest.mark.parametrize("piece", [1, 12, 25, 10**6])
def test_columns_do_not_depend_on_the_pieces(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    whole = _scores(_logits(0), _logits(1))
    monkeypatch.setattr(columns, "_PIECE", piece)
    again = _scores(_logits(0), _logits(1))
    assert all(again.error(name) == pytest.approx(whole.error(name)) for name in known_metrics() if whole.has(name))


def test_a_later_part_is_compared_with_its_own_samples() -> None:
    reference = Reference([_logits(1)], [REAL], tokens=TOKENS, by_token=True)
    parts = [reference.compare([_logits(0)[:1]], 0), reference.compare([_logits(0)[1:]], 1)]
    assert Scores(joined(parts)) == Scores(reference.compare([_logits(0)]))


@pytest.mark.parametrize(
    ("shapes", "axes"),
    [([(4, 3)], 2), ([(4, 5, 3)], 3), ([(4, 1)], None), ([(4,)], None), ([(2, 2, 2, 2)], None), ([(4, 3)] * 2, None)],
)
def test_logits_are_told_by_number_and_axes(shapes: list[tuple[int, ...]], axes: int | None) -> None:
    assert logit_axes([torch.zeros(shape) for shape in shapes]) == axes
    assert logit_axes([torch.zeros(shape, dtype=torch.int64) for shape in shapes]) is None
