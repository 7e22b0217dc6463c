"""The states of a network are read in a program and in its ONNX file, and have the same values in both."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from parallelize.export.onnx import write_onnx
from parallelize.export.state_names import KEY
from parallelize.measuring.stack_states import States, onnx_states, program_states
from parallelize.models.capture import capture
from passes.errors import ParallelizeError
from tests.parallelize.small_models import Residual

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> Residual:
    """Three layers whose first state is the input itself."""
    torch.manual_seed(0)
    return Residual([nn.Linear(4, 4) for _ in range(3)], nn.Linear(4, 2), scale=None).eval()


@pytest.fixture(scope="module")
def both(model: Residual, tmp_path_factory: pytest.TempPathFactory) -> tuple[States, States, Path]:
    program = capture(model, (torch.zeros(3, 4),), dynamic=None, origin="net")
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    write_onnx(program, path)
    return program_states("a", program), onnx_states("b", path, 1), path


def test_both_have_the_stack_with_a_name_for_every_state(both: tuple[States, States, Path]) -> None:
    for states, label in zip(both[:2], "ab", strict=True):
        (stack,) = states.stacks
        assert (states.label, len(stack.kinds), len(stack.states)) == (label, 3, 4)


def test_states_are_those_of_the_model_in_any_order_the_input_among_them(
    model: Residual, both: tuple[States, States, Path]
) -> None:
    expected = [X]
    for term in model.terms:
        expected.append(expected[-1] + term(expected[-1]))
    for states in both[:2]:
        names = states.stacks[0].states
        for order in ((0, 1, 2, 3), (3, 1), (2, 2)):
            values = states.reader([names[place] for place in order])((X,))
            for place, value in zip(order, values, strict=True):
                torch.testing.assert_close(torch.as_tensor(value), expected[place].detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("properties", [{}, {KEY: json.dumps([{"name": "x"}])}])
def test_a_file_that_does_not_say_where_its_states_are_is_refused(
    both: tuple[States, States, Path], tmp_path: Path, properties: dict[str, str]
) -> None:
    content = onnx.load(both[2])
    assert KEY in [entry.key for entry in content.metadata_props]
    del content.metadata_props[:]
    onnx.helper.set_model_props(content, properties)
    onnx.save(content, tmp_path / "bare.onnx")
    with pytest.raises(ParallelizeError, match=r"^bare\.onnx does not say which of its values are states\.$") as caught:
        onnx_states("bare.onnx", tmp_path / "bare.onnx", 1)
    assert "name the model.pt2 instead" in caught.value.hint
