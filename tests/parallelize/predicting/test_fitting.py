"""Numbers are found again from latencies that a known target would have, whole networks and single kernels alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from parallelize.predicting.fitting import Measured, errors, fit, median_error, started
from parallelize.predicting.kernel import Kernel, Kernels, Precision
from parallelize.predicting.latency import milliseconds
from parallelize.predicting.target import Target
from tests.parallelize.predicting.targets import KNOWN

START = replace(started("NVIDIA Known", "9.0", KNOWN.sms, ["bf16"]), gb_per_s=KNOWN.gb_per_s)


def _network(width: int, blocks: int, rows: int, precision: Precision = "bf16") -> Kernels:
    """Blocks of attention and MLP behind a convolution."""

    def product(columns: int, inner: int) -> Kernel:
        return Kernel("product", 2 * (rows * (columns + inner) + columns * inner), 1, rows, columns, inner)

    block = [
        *[Kernel("norm", 4 * rows * width)] * 2,
        *[product(width, width)] * 4,
        Kernel("attention", 8 * rows * width, rows // 64 * width // 64, 64, 64, 64),
        *[Kernel("pointwise", 6 * rows * width)] * 2,
        product(4 * width, width),
        Kernel("pointwise", 16 * rows * width),
        product(width, 4 * width),
    ]
    first = [Kernel("convolution", 4 * rows * width, 1, rows, width, 768), Kernel("copy", 4 * rows * width)]
    return Kernels.of([*first, *block * blocks], precision)


SIZES = [(width, blocks, rows) for width in (192, 768) for blocks in (1, 3, 12) for rows in (64, 512, 4096)]
NETWORKS = [_network(*sizes) for sizes in SIZES]


def _measured(networks: list[Kernels], noise: float = 0.0) -> list[Measured]:
    random = np.random.default_rng(0)
    return [
        Measured(network, milliseconds(network, KNOWN) * 1e3 * float(np.exp(noise * random.standard_normal())))
        for network in networks
    ]


@pytest.fixture(scope="module")
def fitted() -> Target:
    return fit(_measured(NETWORKS, 0.01), START, held=("gb_per_s",))


def test_latencies_of_networks_that_were_not_fitted_are_found(fitted: Target) -> None:
    others = _measured([_network(384, 6, 1024), _network(1024, 2, 256)])
    assert median_error(NETWORKS_MEASURED, fitted) < 0.03
    assert max(map(abs, errors(others, fitted))) < 0.1


NETWORKS_MEASURED = _measured(NETWORKS)


def test_what_is_held_and_what_is_no_number_of_the_model_stays(fitted: Target) -> None:
    assert fitted.gb_per_s == KNOWN.gb_per_s
    assert (fitted.gpu, fitted.sms, fitted.error_of) == (START.gpu, START.sms, START.error_of)


def test_numbers_have_four_digits(fitted: Target) -> None:
    numbers = [fitted.graph_us, fitted.half_mb, *fitted.fixed_us.values(), fitted.rates["bf16"].product.gflops]
    assert numbers == [float(f"{number:.4g}") for number in numbers]


def test_errors_are_relative_and_keep_their_sign() -> None:
    network = Kernels.of([Kernel("norm", 0)], "bf16")
    predicted = KNOWN.graph_us + KNOWN.fixed_us["norm"]
    assert errors([Measured(network, 2 * predicted)], KNOWN) == pytest.approx([-0.5])
    assert errors([Measured(network, predicted / 2)], KNOWN) == pytest.approx([1.0])


def test_rates_of_a_precision_that_nothing_was_measured_in_stay_where_they_started() -> None:
    start = replace(START, rates={**START.rates, "fp32": KNOWN.rates["fp32"]})
    found = fit(_measured(NETWORKS[:4]), start, held=("gb_per_s",))
    assert found.rates["fp32"] == KNOWN.rates["fp32"]
    assert found.rates["bf16"] != start.rates["bf16"]
