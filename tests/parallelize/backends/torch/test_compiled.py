"""A program through torch.compile, and what is said where that fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from parallelize.backends.torch.compiled import Compiled
from parallelize.models.capture import capture
from parallelize.models.program import Program
from passes.errors import EnvironmentLackError
from tests.parallelize.models.captured import Function

CPU, X = torch.device("cpu"), torch.ones(2, 3)


@pytest.fixture(scope="module")
def program() -> Program:
    return capture(Function(lambda x: 2 * x).eval(), (X,), dynamic=None, origin="double")


def with_backend(monkeypatch: pytest.MonkeyPatch, backend: Any) -> None:
    """`torch.compile` by another backend than the one that needs a compiler of C++."""
    compile_by: Callable[..., Any] = torch.compile
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", lambda module, **options: compile_by(module, backend=backend, **options))


def test_a_network_is_compiled_once_for_its_shapes_before_it_is_timed(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[int] = []

    def counting(graph: torch.fx.GraphModule, examples: list[torch.Tensor]) -> Callable[..., Any]:
        compiled.append(len(examples))
        return graph.forward

    with_backend(monkeypatch, counting)
    runner = Compiled(program, CPU)
    assert runner.name == "torch-compile"
    call = runner.bound([X])
    assert len(compiled) == 1
    call()
    assert runner([X])[0].tolist() == [[2.0] * 3] * 2
    assert len(compiled) == 1


def test_where_compiling_fails_the_machine_lacks_something(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(graph: torch.fx.GraphModule, examples: list[torch.Tensor]) -> Callable[..., Any]:
        raise RuntimeError("No working C++ compiler found.\nAnd more")

    with_backend(monkeypatch, failing)
    for run in (Compiled(program, CPU), Compiled(program, CPU).bound):
        with pytest.raises(EnvironmentLackError) as caught:
            run([X])
        assert str(caught.value) == "torch.compile fails here: No working C++ compiler found."
        assert caught.value.hint.endswith("use the runner torch.")
