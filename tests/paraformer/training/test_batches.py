"""Batches of a step: every epoch its own order and augmentation, the same again by the seed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from paraformer.data.labelled import Dataset, Labelled
from paraformer.errors import TrainingError
from paraformer.training import batches
from paraformer.training.batches import Batches, held_out
from paraformer.training.options import TrainingOptions
from tests.paraformer.training.striped import CONFIG, DATA, OPTIONS, TRAIN


def _batches(options: TrainingOptions = OPTIONS, data: Dataset = DATA) -> Batches:
    return Batches(data.train, data, CONFIG, options, torch.device("cpu"), None)


def test_every_epoch_draws_its_own_order_and_its_own_augmentation(monkeypatch: pytest.MonkeyPatch) -> None:
    made = _batches()
    pictures = [torch.cat([batch.inputs[0] for step in made.of(epoch) for batch in step]) for epoch in (0, 1)]
    monkeypatch.setattr(batches, "augment", lambda images, *_, **__: images)
    orders = [torch.cat([batch.inputs[0] for step in made.of(epoch) for batch in step]) for epoch in (0, 1)]
    stored = TRAIN.inputs[0].float()
    numbers = [[int((stored == image).flatten(1).all(1).nonzero()) for image in order] for order in orders]
    assert len(set(numbers[0])) == len(set(numbers[1])) == 64
    assert numbers[0] != numbers[1]
    common = [(numbers[0].index(n), numbers[1].index(n)) for n in set(numbers[0]) & set(numbers[1])]
    same = sum(torch.equal(pictures[0][a], pictures[1][b]) for a, b in common)
    assert same < 0.2 * len(common)


def test_an_epoch_is_the_same_again_and_of_another_seed_another() -> None:
    first, again, other = (
        torch.cat([batch.inputs[0] for step in _batches(options).of(1) for batch in step])
        for options in (OPTIONS, OPTIONS, replace(OPTIONS, seed=1))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 4), (2, 2), (3, 1), (4, 1)])
def test_batches_that_are_accumulated_make_whole_steps(accumulate: int, steps: int) -> None:
    made = _batches(replace(OPTIONS, accumulate=accumulate))
    found = list(made.of(0))
    assert made.steps == len(found) == steps
    assert {len(step) for step in found} == {accumulate}
    plain = [batch.targets for step in _batches().of(0) for batch in step]
    assert all(
        torch.equal(batch.targets, plain[place])
        for place, batch in enumerate(batch for step in found for batch in step)
    )


def test_too_few_samples_for_a_step_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"^70 training samples do not fill a batch of 71\.$"):
        _batches(replace(OPTIONS, batch_size=71))
    with pytest.raises(TrainingError, match=r"^5 batches make a step, and an epoch has 4\.$") as caught:
        _batches(replace(OPTIONS, accumulate=5))
    assert caught.value.hint == "Ask for --accumulate 4 or less."


def test_what_is_held_out_is_of_the_training_samples_and_is_not_learned_from() -> None:
    def rows(data: Labelled) -> set[bytes]:
        return {image.numpy().tobytes() for image in _pixels(data)}

    learned, kept = held_out(DATA, replace(OPTIONS, patience=1))
    assert kept is not None
    assert 0 < len(kept) <= 7
    assert rows(learned) | rows(kept) == rows(TRAIN)
    assert not rows(learned) & rows(kept)
    assert held_out(DATA, OPTIONS) == (TRAIN, None)


def _pixels(data: Labelled) -> Tensor:
    return data.inputs[0]


def test_classes_too_small_to_hold_out_from_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"^No class of stripes has 10 training samples"):
        held_out(DATA.head(9), replace(OPTIONS, patience=1))
