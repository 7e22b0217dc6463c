"""What a file computes is held against its graph: by the largest output, as the precision allows, padding left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from parallelize.data import Samples
from parallelize.measuring.written import CHECKED, TOLERANCE, Comparison, compared
from parallelize.models.capture import capture
from parallelize.models.program import Program
from passes.errors import CheckError
from passes.graph.outputs import flat_outputs
from tests.parallelize.models.captured import Function
from tests.parallelize.small_models import language, text

SAMPLES = Samples({"x": torch.linspace(-4, 4, 40).reshape(40, 1)})


@pytest.fixture(scope="module")
def program() -> Program:
    return capture(Function(lambda x: (2 * x, x > 0)).eval(), (torch.zeros(2, 1),), origin="net")


def shifted(program: Program, by: float) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """Runs the graph, with something added to its first output."""

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        first, *others = flat_outputs(program.module, inputs)
        return [first + by, *others]

    return run


def test_the_error_is_a_share_of_the_largest_output_of_the_first_samples(program: Program) -> None:
    found = compared("model.onnx", shifted(program, 1e-3), program, SAMPLES)
    largest = float(2 * SAMPLES.arrays["x"][:CHECKED].abs().max())
    assert found == Comparison(pytest.approx(1e-3 / largest, rel=1e-3), TOLERANCE["fp32"], CHECKED)
    assert compared("model.onnx", shifted(program, 0), program, SAMPLES, size=3) == Comparison(0.0, 1e-3, 3)
    assert compared("model.onnx", shifted(program, 0), program, SAMPLES.head(2)).samples == 2


@pytest.mark.parametrize(("by", "enough"), [(0.05, "tf32"), (0.1, "fp16"), (0.5, "bf16")])
def test_a_precision_has_a_tolerance_of_its_own(program: Program, by: float, enough: str) -> None:
    order = ["fp32", "tf32", "fp16", "bf16"]
    assert sorted(order, key=TOLERANCE.__getitem__) == order
    for precision in order[: order.index(enough)]:
        with pytest.raises(CheckError, match=r"^a\.engine differs from its graph by .* of the largest output\.$"):
            compared("a.engine", shifted(program, by), program, SAMPLES, precision)
    assert compared("a.engine", shifted(program, by), program, SAMPLES, enough).tolerance == TOLERANCE[enough]


@pytest.mark.parametrize("by", [float("nan"), float("inf")])
def test_no_numbers_are_no_rounding(program: Program, by: float) -> None:
    with pytest.raises(CheckError, match="differs from its graph by infinity"):
        compared("a.engine", shifted(program, by), program, SAMPLES, "bf16")


def test_what_stands_at_padding_does_not_count_where_the_like_graph_tells_it() -> None:
    samples = text(8, 0)
    real = samples.every_real()
    assert real is not None

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        (logits,) = flat_outputs(language().module, inputs)
        return [logits.where(real[..., None], 99.0)]

    assert compared("model.onnx", run, language(), samples).error == 0
    with pytest.raises(CheckError):
        compared("model.onnx", run, language(), Samples(samples.stored))
