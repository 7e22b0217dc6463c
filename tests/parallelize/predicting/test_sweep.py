"""The chains that a GPU is measured by: they launch what they say, and together they tell every number of a target."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from parallelize.models.capture import capture
from parallelize.predicting.kernel import KINDS, Kernel
from parallelize.predicting.kernels import kernels
from parallelize.predicting.sweep import Trial, memory_trials, sweep, tiled_trials

CPU = torch.device("cpu")


def _kernel(trial: Trial) -> Kernel:
    (launch,) = trial.kernels.launches
    return launch.kernel


def test_every_kind_is_measured_small_and_large() -> None:
    found = [_kernel(trial) for trial in sweep(["bf16"])]
    for kind in KINDS:
        sizes = [kernel.bytes for kernel in found if kernel.kind == kind]
        assert max(sizes) > 30 * min(sizes)


def test_each_precision_has_its_own_products_and_bytes_are_measured_once() -> None:
    one, two = sweep(["bf16"]), sweep(["bf16", "fp32"])
    precisions = [trial.kernels.precision for trial in two]
    assert precisions.count("fp32") == len(list(tiled_trials("fp32"))) == len(two) - len(one)
    assert {trial.kernels.precision for trial in memory_trials("bf16")} == {"bf16"}


def test_a_chain_of_many_bytes_is_short() -> None:
    for trial in sweep(["fp32"]):
        assert trial.kernels.count <= 2 or trial.kernels.count * _kernel(trial).bytes <= 2**28


def test_small_chains_run_as_they_are_measured() -> None:
    small = [trial for trial in sweep(["fp32"]) if _kernel(trial).bytes * trial.kernels.count < 2**24]
    assert {_kernel(trial).kind for trial in small} == set(KINDS) - {"convolution"}
    for trial in small[::6]:
        assert isinstance(trial.make(CPU)(), torch.Tensor)


class _Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(192, 768)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.linear(x)
        return y


class _Attention(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(x, y, z)


@pytest.mark.parametrize(
    ("module", "inputs", "wanted"),
    [
        (_Linear(), (torch.zeros(2, 192),), ("product", 1, 16, 768, 192)),
        (_Attention(), (torch.zeros(2, 12, 128, 64),) * 3, ("attention", 12, 128, 128, 64)),
    ],
    ids=["product", "attention"],
)
def test_a_chain_has_the_kernels_that_a_network_of_the_same_operator_has(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], wanted: tuple[object, ...]
) -> None:
    batch = 16 if isinstance(module, _Linear) else 1
    (listed,) = kernels(capture(module.eval(), inputs), {"batch": batch}, "bf16").launches
    sizes = [(k.kind, k.batch, k.rows, k.columns, k.inner) for k in (_kernel(trial) for trial in sweep(["bf16"]))]
    assert _kernel(sweep(["bf16"])[sizes.index(wanted)]) == listed.kernel  # type: ignore[arg-type]
