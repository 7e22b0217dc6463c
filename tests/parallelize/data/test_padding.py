"""Where padding lies in a value: by the symbols of free dimensions, and never by a size that happens to be the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from parallelize.data import Samples
from parallelize.data.padding import Layout, layouts, mask_position, output_nodes, real_parts
from parallelize.models.capture import capture
from parallelize.models.program import Program
from passes.graph.outputs import flat_outputs

TOKENS = 6
MASK = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]])
Make = Callable[[Tensor], Tensor]


class _Shaped(nn.Module):
    """Values of (samples, tokens, 6), in many layouts."""

    def __init__(self, make: Make) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        return self.make(x * keep[..., None])


def _captured(make: Make, *, fixed: bool = False) -> tuple[Program, Samples]:
    axes = {0: "batch"} if fixed else {0: "batch", 1: "tokens"}
    x = torch.randn(3, TOKENS, 6, generator=torch.Generator().manual_seed(0))
    program = capture(_Shaped(make).eval(), (x[:2], MASK[:2]), dynamic=(axes, axes), origin="shaped")
    return program, Samples({"x": x, "keep": MASK}, mask="keep")


LAYOUTS: dict[str, tuple[Make, Layout | None, Layout | None]] = {
    "samples, tokens": (lambda x: x, Layout(0, 1), Layout(0, 1)),
    "tokens, samples": (lambda x: x.transpose(0, 1), Layout(1, 0), Layout(1, 0)),
    "channels before tokens": (lambda x: x.transpose(1, 2), Layout(0, 2), Layout(0, 1)),
    "one number for each token": (lambda x: x.sum(2), Layout(0, 1), None),
    "folded": (lambda x: x.flatten(0, 1), Layout(0, 0), Layout(0, 0)),
    "heads and two axes of tokens": (lambda x: (x @ x.mT)[:, None].expand(-1, 2, -1, -1), Layout(0, 2), None),
    "pooled, as many classes as tokens": (lambda x: x.sum(1), None, None),
    "as many channels as tokens": (lambda x: x.sum(1)[:, :, None].expand(-1, -1, 4), None, Layout(0, 1)),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("fixed", [False, True])
def test_the_axes_of_samples_and_tokens_are_found(name: str, *, fixed: bool) -> None:
    make, free, known = LAYOUTS[name]
    ambiguous = ("channels before tokens", "as many channels as tokens")  # six of both, where tokens are no symbol
    program, samples = _captured(make, fixed=fixed)
    expected = known if fixed else free
    if fixed and name in ambiguous:
        expected = Layout(0, 1)
    assert layouts(program.module, samples) == [expected]


@pytest.mark.parametrize("name", [name for name, (_, free, _) in LAYOUTS.items() if free is not None])
def test_what_stands_at_padding_is_zero_in_these_models_and_no_row_of_theirs(name: str) -> None:
    """Inputs are multiplied by the mask: all that is left out is zero, and nothing that is kept."""
    make, found, _ = LAYOUTS[name]
    assert found is not None
    program, samples = _captured(make)
    inputs = next(samples.batches(3))
    (value,) = flat_outputs(program.module, inputs)
    (real,) = real_parts([found], [value], inputs, mask_position(samples))
    assert real is not None
    assert not value[~real.expand_as(value)].any()
    rows = found.rows(value, MASK)
    assert rows.any(1).all()
    assert rows.sum() == pytest.approx(float(value.sum()), abs=1e-4)


def test_without_a_mask_everything_counts() -> None:
    program, samples = _captured(lambda x: x)
    plain = Samples(samples.arrays)
    assert layouts(program.module, plain) == [None]
    assert mask_position(plain) is None
    assert real_parts([None], [torch.zeros(3)], next(plain.batches(3)), None) == [None]
    assert len(output_nodes(program.module)) == 1
