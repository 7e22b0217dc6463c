"""Where states are held changes no number: in memory, in a file, on the host behind a device."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from parallelize.data import Samples
from parallelize.data.buffer import Buffer
from parallelize.machine import device as devices
from parallelize.models.placement import placed
from parallelize.models.program import Program
from parallelize.refitting.records import Refitted
from parallelize.refitting.refit import refit
from passes.plan import Plan, Refit
from tests.parallelize.other_device import other_device
from tests.parallelize.refitting.four_mlps import FIT, HELD_OUT
from tests.parallelize.small_models import images, language, pairs, stack_plan, text, vision

SAMPLES = (images(60, 0), images(30, 1))
CASES: dict[str, tuple[Program, Plan, Samples, Samples]] = {
    "affine": (vision(2), pairs("affine", 2), *SAMPLES),
    "full": (vision(2), pairs("full", 2), *SAMPLES),
    "chains": (vision(2), stack_plan(4, [[[0, 1], [2, 3]]], "full"), *SAMPLES),
    "gaps": (vision(2), stack_plan(4, [[[0], [3]], [[1], [2]]], "full"), *SAMPLES),
    "padded": (language(), stack_plan(5, [[[0]], [[1], [2]], [[3], [4]]], "full"), text(40, 0), text(20, 1)),
}


@pytest.fixture
def buffers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes in files after each time that something was held."""
    seen: list[int] = []
    keep = Buffer.keep

    def noting(self: Buffer, value: torch.Tensor) -> object:
        kept = keep(self, value)
        seen.append(self.in_file)
        return kept

    monkeypatch.setattr(Buffer, "keep", noting)
    return seen


def _refitted(case: str, bound: int) -> Refitted:
    program, plan, fit, held_out = CASES[case]
    buffer = Buffer(bound)
    found = refit(program.module, plan, replace(fit, buffer=buffer), replace(held_out, buffer=buffer), batch_size=16)
    assert (sum(buffer.held.values()), buffer.in_file) == (0, 0)
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_refit_with_everything_in_a_file_is_that_in_memory_to_the_bit(case: str, buffers: list[int]) -> None:
    memory = _refitted(case, 2**31)
    assert set(buffers) == {0}
    file = _refitted(case, 0)
    assert max(buffers) > 0
    assert file.levels == memory.levels
    ours, theirs = file.module.state_dict(), memory.module.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize("strength", ["affine", "full"])
def test_a_refit_on_a_device_without_room_for_states_is_the_same_to_the_bit(
    strength: Refit, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = stack_plan(4, [[[0], [1]], [[2], [3]]], strength)

    def refitted(bound: int, device: torch.device) -> Refitted:
        there, buffer = placed(program, device), Buffer(bound)
        parts = [replace(part, buffer=buffer, device=device) for part in (FIT, HELD_OUT)]
        return refit(there.module, plan, parts[0], parts[1], batch_size=100)

    with other_device() as device:
        there = refitted(2**31, device)
        monkeypatch.setattr(devices, "free_memory", lambda _device: 0)
        for bound in (2**31, 0):
            elsewhere = refitted(bound, device)
            assert elsewhere.levels == there.levels
            pairs_of_weights = zip(elsewhere.module.parameters(), there.module.parameters(), strict=True)
            assert all(torch.equal(ours, theirs) for ours, theirs in pairs_of_weights)
