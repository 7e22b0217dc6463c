"""The metric that was asked for is taken, else the first that suits the outputs of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from parallelize.data import Samples
from parallelize.metrics.choice import choose_metric
from parallelize.models.capture import capture
from parallelize.models.program import Program
from passes.errors import ParallelizeError
from tests.parallelize.models.captured import Function


def made(function: Callable[[Tensor], Any]) -> tuple[Program, Samples]:
    program = capture(Function(function).eval(), (torch.zeros(2, 3),), dynamic=None, origin="net")
    return program, Samples({"x": torch.rand(4, 3)}, fixed=2)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: 2 * x, "kl"),
        (lambda x: x[:, :, None] * x[:, None], "relative-l2"),
        (lambda x: (x, x), "relative-l2"),
        (lambda x: (x.argmax(1), x), "relative-l2"),
        (lambda x: x.argmax(1), "differing"),
    ],
    ids=["logits", "hidden states", "two outputs", "classes and numbers", "classes"],
)
def test_the_metric_suits_the_outputs(function: Callable[[Tensor], Any], name: str) -> None:
    assert choose_metric(None, *made(function)).name == name


def test_one_that_was_asked_for_is_taken_whatever_the_outputs_are() -> None:
    program, samples = made(lambda x: 2 * x)
    assert choose_metric("cosine", program, samples).name == "cosine"
    with pytest.raises(ParallelizeError, match="no metric 'bleu'"):
        choose_metric("bleu", program, samples)
