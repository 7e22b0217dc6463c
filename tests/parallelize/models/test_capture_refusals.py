"""A model that cannot be captured: one sentence says why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from paraformer.model import VisionParaFormer
from parallelize.models.capture import capture, from_exported
from passes.errors import ParallelizeError
from tests.parallelize.models.captured import Function, of_function


def _refusal(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(ParallelizeError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message, caught.value.hint


def test_training_mode_is_refused_with_the_first_module_in_it(vision: VisionParaFormer) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout()).eval()
    model[1].train()
    message, hint = _refusal(lambda: capture(model, (torch.zeros(2, 4),), origin="m"))
    assert message == "m cannot be captured: its module '1' is in training mode."
    assert ".eval()" in hint


def test_a_program_exported_in_training_mode_is_refused() -> None:
    exported = torch.export.export(nn.Sequential(nn.Dropout()).train(), (torch.zeros(2, 4),))
    message, _ = _refusal(lambda: from_exported(exported, "m.pt2"))
    assert message == "m.pt2 was exported in training mode: the operation dropout behaves as in training."


def test_a_wrong_input_shape_is_told_as_such(vision: VisionParaFormer) -> None:
    message, hint = _refusal(lambda: capture(vision, (torch.zeros(1, 3, 28, 28),), origin="small.pt"))
    assert message.startswith("small.pt does not run on an input of 5x3x28x28@float32: RuntimeError: ")
    assert "expected input[5, 3, 28, 28] to have 1 channels" in message
    assert f"({Path(__file__).parents[3] / 'paraformer/vision.py'}:" in message
    assert "--input" in hint


def test_control_flow_on_values_is_refused_with_its_line() -> None:
    def forward(x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x

    line = forward.__code__.co_firstlineno + 1
    message, hint = _refusal(lambda: of_function(forward, 2, 4))
    assert message.startswith("torch.export cannot capture it: Could not guard on data-dependent expression")
    assert message.endswith(f"({__file__}:{line}).")
    assert "torch.cond" in hint


def test_a_fixed_batch_is_refused_with_its_size() -> None:
    message, hint = _refusal(lambda: of_function(lambda x: x.reshape(-1, 4)[: x.shape[0]] + x.expand(3, 4), 2, 4))
    assert message == "it fixes dimension 0 ('batch') of its input 'x' to 3."
    assert "fixed size" in hint


def test_a_model_that_treats_small_batches_otherwise_is_refused() -> None:
    message, _ = _refusal(lambda: of_function(lambda x: x * 2 if x.shape[0] > 2 else x, 2, 4))
    assert message == "it takes another path when dimension 0 ('batch') of its input 'x' is below 3."


def test_no_tensor_and_the_wrong_number_of_dimensions_are_refused() -> None:
    model = Function(F.relu).eval()
    assert _refusal(lambda: capture(model, (), origin="it"))[0] == "it got no tensor to read."
    message, _ = _refusal(lambda: capture(model, (torch.zeros(2, 2),), dynamic=[{}, {}], origin="it"))
    assert message == "it reads 1 tensors, but free dimensions are given for 2."


def test_a_failed_capture_writes_nothing_to_the_log_and_leaves_the_model_alone(
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = Function(lambda x: F.linear(x, torch.ones(3, 5))).eval()
    _refusal(lambda: capture(model, (torch.zeros(2, 4),)))
    assert capfd.readouterr() == ("", "")
    assert not model._forward_hooks
