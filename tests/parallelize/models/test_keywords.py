"""A forward of `**batch` has the names of its inputs in its signature for as long as it is exported."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from parallelize.models.capture import capture
from parallelize.models.keywords import takes_any, written_out


class Batch(nn.Module):
    def forward(self, x: Tensor, *rest: Tensor, scale: float = 1.0, **batch: Tensor) -> Tensor:
        """Add what there is."""
        return scale * (x + sum(batch.values()))


def parameters(module: nn.Module) -> list[str]:
    return list(inspect.signature(module.forward).parameters)


def test_the_names_stand_in_the_signature_and_go_again_with_whatever_ends_it() -> None:
    module = Batch()
    assert takes_any(module)
    with written_out(module, ["x", "mask", "scale", "bias"]):
        assert parameters(module) == ["x", "rest", "scale", "mask", "bias"]
        assert not takes_any(module)
        assert module(torch.ones(1), scale=2.0, bias=torch.ones(1)).tolist() == [4.0]
    assert parameters(module) == ["x", "rest", "scale", "batch"]
    assert "forward" not in module.__dict__
    with pytest.raises(KeyError), written_out(module, ["mask"]):
        raise KeyError
    assert takes_any(module)


def test_a_forward_of_the_objects_own_comes_back() -> None:
    def own(**batch: Any) -> Any:
        return batch["x"]

    module = nn.Identity()
    module.forward = own  # type: ignore[method-assign]
    with written_out(module, ["x"]):
        assert parameters(module) == ["x"]
    assert module.forward is own


def test_a_forward_without_them_is_left_alone() -> None:
    module = nn.Linear(2, 2)
    assert not takes_any(module)
    with written_out(module, ["input", "mask"]):
        assert parameters(module) == ["input"]
        assert "forward" not in module.__dict__


def test_inputs_by_any_name_are_inputs_of_the_program() -> None:
    x = torch.ones(2, 3)
    program = capture(Batch().eval(), (x,), {"bias": 2 * x, "mask": 3 * x}, dynamic=None, origin="any")
    assert [spec.name for spec in program.inputs] == ["x", "bias", "mask"]
    assert torch.equal(program.module(x, x, x), 3 * x)
