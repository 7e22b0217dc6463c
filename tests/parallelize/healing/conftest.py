"""A rewrite before and after its healing."""

from __future__ import annotations

import pytest

from parallelize.healing.heal import Healed
from parallelize.refitting.records import Refitted
from parallelize.refitting.refit import refit
from tests.parallelize.healing.cases import FAST, FIT, HELD_OUT, PLAN, healing_of
from tests.parallelize.small_models import vision


@pytest.fixture(scope="session")
def refitted() -> Refitted:
    return refit(vision(2).module, PLAN, FIT, HELD_OUT)


@pytest.fixture(scope="session")
def healed(refitted: Refitted) -> Healed:
    return healing_of(refitted, FAST)
