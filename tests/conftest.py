"""The files that take longest come first, so that no process is left with one of them in the end; less is collected."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from hypothesis import settings

LONGEST = ("properties", "architectures", "parallelize/cli", "parallelize/conversion", "parallelize/backends")

# Where a test does not say otherwise; other examples each time.
settings.register_profile("quick", max_examples=25, deadline=None)
settings.load_profile("quick")

gc.disable()  # until all is imported


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many threads as each of several processes has: sums depend on it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the tests of the longest files to the front."""
    items.sort(key=lambda item: next((n for n, name in enumerate(LONGEST) if f"tests/{name}" in str(item.path)), 99))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave what is imported, a million objects that stay, out of every collection: a tenth of the time."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    gc.enable()
