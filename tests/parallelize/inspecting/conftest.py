"""The stacks that diagrams are drawn of."""

from __future__ import annotations

import pytest

from passes.stacks.find import Stack
from tests.parallelize.inspecting import drawn


@pytest.fixture(scope="session")
def stacks() -> tuple[Stack, ...]:
    return drawn.twelve_blocks()


@pytest.fixture(scope="session")
def two_stacks() -> tuple[Stack, ...]:
    return drawn.two_stacks()
