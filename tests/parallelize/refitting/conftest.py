"""Four MLPs, as a module and captured."""

from __future__ import annotations

import pytest

from parallelize.models.program import Program
from tests.parallelize.refitting.four_mlps import HIDDEN, WIDTH, seeded
from tests.parallelize.small_models import Residual, capture_vectors, mlp


@pytest.fixture(scope="module")
def model() -> Residual:
    """Four MLPs behind norms; the output is the state."""
    network = seeded(lambda: Residual([mlp(WIDTH, HIDDEN) for _ in range(4)]))
    assert isinstance(network, Residual)
    return network.double().eval()


@pytest.fixture(scope="module")
def program(model: Residual) -> Program:
    return capture_vectors(model, WIDTH)
