"""--weights loads a state dict that fits exactly, or says which key does not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from passes.errors import EnvironmentLackError
from tests.parallelize.references.cases import layers, load, refusal


def test_weights_are_loaded_bare_or_from_a_training_checkpoint(home: Path) -> None:
    state = {name: torch.full_like(value, 0.5) for name, value in layers().state_dict().items()}
    torch.save(state, "bare.pt")
    torch.save({"epoch": 3, "state_dict": state}, "training.pt")
    for file in ("bare.pt", "training.pt"):
        program = load("shop:small", "batchx4", weights=Path(file))
        assert program.module(torch.ones(1, 4)).tolist() == [[10.5, 10.5]]


def test_weights_are_loaded_from_safetensors(home: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file({n: torch.full_like(v, 0.5) for n, v in layers().state_dict().items()}, "w.safetensors")
    program = load("shop:small", "batchx4", weights=Path("w.safetensors"))
    assert program.module(torch.ones(1, 4)).tolist() == [[10.5, 10.5]]


def test_weights_that_do_not_fit_are_refused_with_the_first_key(home: Path) -> None:
    state = layers().state_dict()
    missing = {name: value for name, value in state.items() if name != "first.weight"}
    cases = {
        "'first.weight' is missing": missing,
        "'first.weight' is missing, and 1 more keys do not fit": missing | {"third.weight": torch.zeros(1)},
        "'third.weight' is not in the model": state | {"third.weight": torch.zeros(1)},
        "'first.bias' has the shape 3, the model's 8": state | {"first.bias": torch.zeros(3)},
    }
    for sentence, weights in cases.items():
        torch.save(weights, "w.pt")
        message, hint = refusal("shop:small", "batchx4", weights=Path("w.pt"))
        assert message == f"w.pt does not fit shop:small: {sentence}."
        assert "very model" in hint


def test_weights_that_are_no_state_dict_are_refused(home: Path) -> None:
    torch.save([1, 2], "list.pt")
    torch.save(nn.Linear(2, 2), "module.pt")
    Path("cut.pt").write_bytes(Path("module.pt").read_bytes()[:200])
    for file, sentence in {
        "list.pt": "list.pt holds no state dict.",
        "module.pt": "module.pt holds more than tensors.",
        "cut.pt": "cut.pt is damaged or not a PyTorch file.",
        "absent.pt": "absent.pt does not exist.",
    }.items():
        assert refusal("shop:small", "batchx4", weights=Path(file))[0] == sentence


def test_safetensors_without_the_package_say_what_to_install(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    Path("w.safetensors").write_bytes(b"")
    with pytest.raises(EnvironmentLackError, match=r"w.safetensors cannot be read: safetensors is not installed\."):
        load("shop:small", "batchx4", weights=Path("w.safetensors"))
