"""PyTorch as a backend: a program on the device that was asked for, unless it answers otherwise each time."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from parallelize.backends.backend import PROGRAM
from parallelize.backends.runner_options import RunnerOptions
from parallelize.backends.torch.backend import TORCH, TORCH_COMPILE
from parallelize.models.capture import capture
from passes.errors import EnvironmentLackError, ParallelizeError
from tests.parallelize.models.captured import Function

CPU = RunnerOptions(device="cpu")
X = torch.linspace(-1, 1, 6).reshape(2, 3)


def test_a_program_is_run_on_the_device_that_was_asked_for() -> None:
    program = capture(Function(torch.relu).eval(), (X,), dynamic=None, origin="relu")
    with TORCH.opened(program, PROGRAM, CPU) as runner:
        assert (runner.name, runner.device.type, runner.graphable) == ("torch", "cpu", True)
        assert (runner.inputs, runner.outputs) == (program.inputs, program.outputs)
        assert torch.equal(runner([X])[0], X.relu())
    assert TORCH.found() == torch.__version__
    assert (TORCH.hides, TORCH_COMPILE.hides) == ("", "compiled")
    assert (TORCH.compiles, TORCH_COMPILE.compiles) == (False, True)


def test_a_program_that_draws_random_numbers_is_refused_by_its_operator() -> None:
    program = capture(Function(lambda x: functional.dropout(x, 0.5)).eval(), (X,), dynamic=None, origin="net")
    with pytest.raises(ParallelizeError, match=r"^net answers otherwise each time it runs: dropout "):
        TORCH.opened(program, PROGRAM, CPU).__enter__()


def test_a_device_that_is_not_here_is_refused_before_the_program_is_loaded() -> None:
    with pytest.raises(ParallelizeError, match="names no device"):
        TORCH.opened("absent.pt2", PROGRAM, RunnerOptions(device="elsewhere")).__enter__()
    if not torch.cuda.is_available():
        with pytest.raises(EnvironmentLackError, match=r"^There is no GPU cuda\.$"):
            TORCH.opened("absent.pt2", PROGRAM, RunnerOptions(device="cuda")).__enter__()
