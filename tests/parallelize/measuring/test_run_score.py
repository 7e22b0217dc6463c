"""A network's own score."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from parallelize.data import Samples
from parallelize.data.buffer import Buffer
from parallelize.measuring.run_options import RunFileOptions
from parallelize.measuring.run_score import require_scorable, scored
from parallelize.metrics.outputs import Outputs
from parallelize.metrics.own import own_metric
from passes.errors import ParallelizeError

LOGITS = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.where(torch.arange(300) % 3 == 0, LOGITS.argmin(1), LOGITS.argmax(1))
SAMPLES = Samples({"x": torch.zeros(300, 2)}, LABELS)


def _outputs(value: Tensor) -> list[Outputs | None]:
    found = Outputs(len(value), value, Buffer())
    found.add(value)
    return [None, found]


def test_accuracy_is_the_share_of_samples_whose_largest_logit_is_the_label() -> None:
    score = scored(RunFileOptions(labels="y"), _outputs(LOGITS), SAMPLES)
    assert score is not None
    assert score.value == 200 / 300
    low, high = score.interval
    assert low < score.value < high
    assert str(score).startswith("top-1 66.67% (95 % interval ")


def test_a_function_of_the_users_own_scores_the_outputs() -> None:
    mean = own_metric("mean", lambda outputs, _teacher, _batch: outputs[0].mean(1))
    score = scored(RunFileOptions(metric=mean), _outputs(LOGITS), SAMPLES)
    assert score is not None
    assert score.value == pytest.approx(float(LOGITS.double().mean()), abs=1e-6)


def test_nothing_is_scored_unasked() -> None:
    assert scored(RunFileOptions(), _outputs(LOGITS), SAMPLES) is None


def test_a_metric_that_compares_two_networks_is_refused_and_accuracy_without_labels() -> None:
    with pytest.raises(ParallelizeError, match="The metric kl says how far a network is from another one"):
        require_scorable(RunFileOptions(metric="kl"), SAMPLES)
    with pytest.raises(ParallelizeError, match="Accuracy needs labels"):
        require_scorable(RunFileOptions(metric="top1-drop"), Samples({"x": torch.zeros(3, 2)}))
