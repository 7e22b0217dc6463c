"""Where states are held changes no number, in memory, in a file, on the host behind a device; and memory is bounded."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import fx

from parallelize.data import Samples
from parallelize.data import buffer as buffer_of_jobs
from parallelize.data.buffer import Buffer
from parallelize.machine import device as devices
from parallelize.models.placement import placed
from parallelize.models.program import Program
from parallelize.models.states import Batch
from parallelize.refitting import refit as refits
from parallelize.refitting.records import Refitted
from parallelize.refitting.refit import refit
from passes.plan import Plan, Refit
from tests.parallelize.other_device import other_device
from tests.parallelize.refitting.four_mlps import FIT, HELD_OUT, seeded
from tests.parallelize.small_models import (
    Residual,
    capture_vectors,
    images,
    language,
    mlp,
    pairs,
    stack_plan,
    text,
    vision,
)

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

    def noting(self: Buffer, value: torch.Tensor, share: float = 1.0) -> object:
        kept = keep(self, value, share)
        seen.append(self.in_file)
        return kept

    monkeypatch.setattr(Buffer, "keep", noting)
    return seen


def _refitted(case: str) -> Refitted:
    program, plan, fit, held_out = CASES[case]
    buffer = Buffer()
    found = refit(program.module, plan, replace(fit, buffer=buffer), replace(held_out, buffer=buffer), batch_size=16)
    assert (sum(buffer.held.values()), buffer.in_file) == (0, 0)
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_refit_with_everything_in_a_file_is_that_in_memory_to_the_bit(
    case: str, buffers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = _refitted(case)
    assert set(buffers) == {0}
    monkeypatch.setattr(buffer_of_jobs, "HELD", 0)
    file = _refitted(case)
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

    def refitted(device: torch.device) -> Refitted:
        there, buffer = placed(program, device), Buffer()
        parts = [replace(part, buffer=buffer, device=device) for part in (FIT, HELD_OUT)]
        return refit(there.module, plan, parts[0], parts[1], batch_size=100)

    with other_device() as device:
        there = refitted(device)
        monkeypatch.setattr(devices, "free_memory", lambda _device: 0)
        for held in (1, 0):
            monkeypatch.setattr(buffer_of_jobs, "HELD", held)
            elsewhere = refitted(device)
            assert elsewhere.levels == there.levels
            pairs_of_weights = zip(elsewhere.module.parameters(), there.module.parameters(), strict=True)
            assert all(torch.equal(ours, theirs) for ours, theirs in pairs_of_weights)


def test_a_batch_has_fewer_samples_where_a_level_has_many_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two MLPs of 12 features beside 6 channels and a constant are 31 columns."""
    program, sizes = capture_vectors(seeded(lambda: Residual([mlp(6, 12) for _ in range(2)])), 6), []
    starting = refits.start_batches

    def noting(teacher: fx.GraphModule, state: fx.Node, samples: Samples, size: int) -> list[Batch]:
        sizes.append(size)
        return starting(teacher, state, samples, size)

    monkeypatch.setattr(refits, "start_batches", noting)
    for strength, bound in (("full", 64 * 31 * 20), ("affine", 64 * 31 * 20), ("full", 64), ("full", 2**31)):
        fit = replace(FIT.head(20), buffer=Buffer(bound))
        refit(program.module, stack_plan(2, [[[0], [1]]], strength), fit, HELD_OUT.head(10))
    assert sizes[::2] == sizes[1::2] == [20, 51, 1, 100]


PEAK = """
import torch
from torch import nn
from dataclasses import replace
from benchmarks.resident import forget_peak, resident
from parallelize.data import Samples
from parallelize.data import buffer as buffer_of_jobs
from parallelize.data.buffer import Buffer
from parallelize.refitting.refit import refit
from tests.parallelize.small_models import Residual, mlp, stack_plan
from parallelize.models.capture import capture

torch.manual_seed(0)
torch.set_num_threads(1)
model = Residual([mlp(64, 16) for _ in range(2)]).eval()
program = capture(model, (torch.randn(2, 64, 64),), origin="MLPs")
samples = Samples({"x": torch.randn(2000, 64, 64)}, buffer=Buffer(2**24))
plan = stack_plan(2, [[[0], [1]]], "full")
fit, held_out = samples.take(range(400, 2000)), samples.take(range(400))
refit(program.module, plan, fit.head(100), held_out.head(100))
before = resident("VmRSS")
forget_peak()
refit(program.module, plan, fit, held_out)
print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells a process' peak")
def test_a_refit_with_many_samples_stays_within_the_bound() -> None:
    """Their states are 31 MiB: held in memory as states, targets and sums they would take 120; the bound is 16 MiB."""
    root = Path(__file__).resolve().parents[3]
    told = subprocess.run([sys.executable, "-c", PEAK], cwd=root, capture_output=True, text=True, check=True)
    assert int(told.stdout) < 2**24 + 2**24
