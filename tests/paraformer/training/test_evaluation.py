"""Scores: of all samples, of every prefix, and of tokens that have a next one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from paraformer.data.labelled import Labelled
from paraformer.training.evaluation import evaluate, predict, top1
from tests.paraformer.models import randomised, sequences, tokens, vision
from tests.paraformer.training.striped import CONFIG, TEST


class Stripes(nn.Module):
    """Logits that are right: neighbours differ across the stripes."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        return torch.stack([images.diff(dim=axis).abs().mean((1, 2, 3)) for axis in (3, 2)], 1)


def test_predictions_are_made_in_batches_without_changing_them() -> None:
    model = Stripes().train()
    logits = predict(model, TEST, batch_size=8)
    assert model.batches == [8, 8, 8, 6]
    assert not model.training
    assert torch.equal(logits, Stripes()(TEST.inputs[0].float()))


def test_top1_is_the_share_of_images_classified_rightly() -> None:
    assert top1(Stripes(), TEST) == 1.0
    wrong = TEST.labels.clone()
    wrong[:6] = 1 - wrong[:6]
    assert top1(Stripes(), Labelled(TEST.inputs, wrong)) == pytest.approx(0.8)


def test_scores_are_those_of_the_predictions() -> None:
    model = randomised(CONFIG).float()
    scores = evaluate(model, TEST)
    assert scores.top1 == top1(model, TEST)
    assert scores.loss == pytest.approx(float(F.cross_entropy(predict(model, TEST), TEST.labels)), rel=1e-5)
    assert scores.prefixes == ()


@pytest.mark.parametrize("is_fused", [False, True], ids=["looped", "fused"])
def test_every_prefix_is_scored_as_the_model_that_it_is(is_fused: bool) -> None:
    model = randomised(vision(3, classes=2)).float()
    scores = evaluate(model.fuse() if is_fused else model, TEST, with_prefixes=True)
    assert scores.prefixes == tuple(top1(model.prefix(count), TEST) for count in (1, 2, 3))
    assert scores.top1 == scores.prefixes[-1]


def test_next_tokens_are_scored_where_there_are_some() -> None:
    model = randomised(tokens(2, task="next-token")).float()
    ids, mask = sequences(3, 7)
    scores = evaluate(model, Labelled((ids, mask), torch.zeros(3, dtype=torch.int64)))
    said = model(ids, mask).argmax(-1)
    pairs = [(int(said[row, at]), int(ids[row, at + 1])) for row in range(3) for at in range(6) if mask[row, at + 1]]
    assert scores.top1 == sum(found == wanted for found, wanted in pairs) / len(pairs)
    assert len(pairs) == 6 + 5 + 4
