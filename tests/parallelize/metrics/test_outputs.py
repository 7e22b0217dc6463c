"""Outputs of all samples are what was put in, whatever part of them is asked for and wherever they lie."""

from __future__ import annotations

import pytest
import torch

from parallelize.data.buffer import Buffer
from parallelize.metrics import outputs
from parallelize.metrics.outputs import Outputs
from passes.graph.agreement import scale

VALUE = torch.randn(23, 3, 2, generator=torch.Generator().manual_seed(0))


def _kept(bound: int = 2**31) -> Outputs:
    made = Outputs(23, VALUE, Buffer(bound))
    for batch in VALUE.split(9):
        made.add(batch)
    return made


@pytest.mark.parametrize("bound", [0, 2**31], ids=["file", "memory"])
@pytest.mark.parametrize("piece", [1, 12, 10**6])
def test_any_part_is_read_back(piece: int, bound: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "_PIECE", piece)
    made = _kept(bound)
    for part in (slice(0, 23), slice(None), slice(3, 4), slice(8, 19), slice(20, 99), slice(5, 5), slice(23, 25)):
        assert torch.equal(made[part], VALUE[part])
    assert made[:0].shape == (0, 3, 2)


def test_it_is_asked_as_a_tensor_is() -> None:
    made = _kept()
    assert (made.shape, made.dtype, made.ndim, len(made)) == (VALUE.shape, VALUE.dtype, VALUE.ndim, len(VALUE))
    assert (made.numel(), made.is_floating_point(), made.is_complex()) == (VALUE.numel(), True, False)
    assert scale(made) == scale(VALUE)


def test_outputs_without_elements_are_outputs() -> None:
    made = Outputs(4, torch.zeros(2, 0), Buffer())
    made.add(torch.zeros(4, 0))
    assert made[1:3].shape == (2, 0)
