"""A job of a small network, made once for all tests of its stages."""

from __future__ import annotations

import functools

from parallelize.backends.choice import Choice
from parallelize.backends.onnxruntime.backend import ONNXRUNTIME
from parallelize.conversion.goal import Goal, Replay
from parallelize.conversion.job import Job, begin
from parallelize.conversion.options import ConvertOptions
from parallelize.models.source import Source
from tests.parallelize.conversion.conversions import two_blocks
from tests.parallelize.small_models import pairs

CHOICE = Choice(ONNXRUNTIME, "it was asked for")


def begun(source: Source, goal: Goal, options: ConvertOptions) -> Job:
    return begin(source, goal, options, CHOICE, lambda what, share: None)


@functools.cache
def random_job() -> Job:
    """Two blocks that become one, judged on random numbers."""
    return begun(Source(two_blocks()), Replay(pairs("none", 2)), ConvertOptions(rounds=1))
