"""What is minimised: cross entropy of all branches or of every prefix, beside a teacher's answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from paraformer.errors import TrainingError
from paraformer.training.objectives import UNSAID, Batch, criterion, losses_of_a_step, targets_of
from paraformer.training.options import TrainingOptions
from tests.paraformer.models import images, randomised, sequences, tokens, vision

CONFIG = vision(3)
LABELS = torch.tensor([2, 0, 1])
OPTIONS = TrainingOptions(prefix_weight=0.25, teacher_weight=0.25, temperature=3.0)


def _batch() -> Batch:
    return Batch(images(), LABELS)


def _prefix_losses() -> list[float]:
    model = randomised(CONFIG)
    return [F.cross_entropy(model.prefix(count)(*images()).float(), LABELS).item() for count in (1, 2, 3)]


@pytest.mark.parametrize("is_fused", [False, True], ids=["looped", "fused"])
def test_progressive_weighs_all_branches_and_the_mean_of_all_prefixes(is_fused: bool) -> None:
    model = randomised(CONFIG)
    (loss,) = losses_of_a_step(CONFIG, replace(OPTIONS, objective="progressive"))
    losses = _prefix_losses()
    found = loss(model.fuse() if is_fused else model, _batch())
    assert found.item() == pytest.approx(0.75 * losses[-1] + 0.25 * sum(losses) / 3, rel=1e-5)


def test_progressive_without_weight_on_prefixes_is_joint() -> None:
    model = randomised(CONFIG)
    (joint,) = losses_of_a_step(CONFIG, OPTIONS)
    (progressive,) = losses_of_a_step(CONFIG, replace(OPTIONS, objective="progressive", prefix_weight=0.0))
    torch.testing.assert_close(progressive(model, _batch()), joint(model, _batch()))


def test_steps_are_of_one_prefix_each_and_leave_the_others_without_a_gradient() -> None:
    model = randomised(CONFIG)
    losses = losses_of_a_step(CONFIG, replace(OPTIONS, objective="progressive-steps"))
    assert [loss(model, _batch()).item() for loss in losses] == pytest.approx(_prefix_losses(), rel=1e-5)
    losses[1](model, _batch()).backward()  # type: ignore[no-untyped-call]
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in model.named_parameters() if not name.startswith("blocks.2.")}


@pytest.mark.parametrize("objective", ["progressive", "progressive-steps"])
def test_prefixes_of_one_branch_are_refused(objective: str) -> None:
    with pytest.raises(TrainingError, match=rf"^The objective {objective} trains prefixes of branches, and the model"):
        losses_of_a_step(vision(1), replace(OPTIONS, objective=objective))


def test_a_teacher_of_equal_answers_leaves_its_share_of_the_labels_loss() -> None:
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    alone = criterion(logits, Batch((), LABELS), OPTIONS)
    torch.testing.assert_close(criterion(logits, Batch((), LABELS, logits), OPTIONS), 0.75 * alone)


def test_a_teacher_adds_the_divergence_of_softened_answers() -> None:
    logits, taught = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    p, q = ((value / 3.0).softmax(1) for value in (taught, logits))
    apart = 9.0 * (p * (p / q).log()).sum(1).mean()
    expected = 0.75 * F.cross_entropy(logits, LABELS) + 0.25 * apart
    torch.testing.assert_close(criterion(logits, Batch((), LABELS, taught), OPTIONS), expected)


def test_a_teacher_teaches_every_prefix() -> None:
    logits, taught = torch.randn(2, 3, 4), torch.randn(3, 4)
    batch = Batch((), LABELS, taught)
    expected = torch.stack([criterion(prefix, batch, OPTIONS) for prefix in logits]).mean()
    torch.testing.assert_close(criterion(logits, batch, OPTIONS), expected)


def test_what_is_not_to_be_said_is_neither_labelled_nor_taught() -> None:
    targets = torch.tensor([[1, UNSAID], [0, 2]])
    logits, taught = torch.randn(2, 2, 2, 3)
    batch = Batch((), targets, taught)
    said = targets != UNSAID
    expected = criterion(logits[said], Batch((), targets[said], taught[said]), OPTIONS)
    torch.testing.assert_close(criterion(logits, batch, OPTIONS), expected)


def test_the_next_token_is_the_target_where_it_is_no_padding() -> None:
    ids, mask = torch.tensor([[3, 4, 5, 0], [6, 7, 8, 9]]), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    targets = targets_of(tokens(2, task="next-token"), (ids, mask), torch.zeros(2))
    assert targets.tolist() == [[4, 5, UNSAID, UNSAID], [7, 8, 9, UNSAID]]
    assert targets_of(tokens(2), sequences(), LABELS) is LABELS
