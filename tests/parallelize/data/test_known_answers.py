"""Answers are those of one network, by identity."""

from __future__ import annotations

from dataclasses import replace

import torch

from parallelize.data import Samples
from parallelize.data.known_answers import KnownAnswers


def test_answers_are_those_of_the_samples_and_of_no_other_network() -> None:
    samples, network = Samples({"x": torch.zeros(4, 1)}), object()
    kept = samples.buffer.keep(torch.arange(4.0))
    known = replace(samples, answers=KnownAnswers(network, (kept,)))
    assert [value.tolist() for value in known.answered(network) or ()] == [[0, 1, 2, 3]]
    assert [value.tolist() for value in known.take([3, 1]).answered(network) or ()] == [[3, 1]]
    assert known.answered(object()) is None
    assert samples.answered(network) is None
