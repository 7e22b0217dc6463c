"""--weights loads what training loops write where it fits exactly, or says which key does not."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from parallelize.models.source import LoadOptions
from parallelize.models.sources.weights import load_weights
from passes.errors import ParallelizeError
from tests.parallelize.models.sources.cases import layers, refusal

HALF = {name: torch.full_like(value, 0.5) for name, value in layers().state_dict().items()}
OTHER = {name: value + 1 for name, value in HALF.items()}


def prefixed(prefix: str, state: Mapping[str, Any] = HALF) -> dict[str, Any]:
    return {prefix + name: value for name, value in state.items()}


def loaded(module: nn.Module, held: Any, key: str | None = None, file: str = "w.pt") -> nn.Module:
    """The module with the weights of a file of torch.save that holds this."""
    torch.save(held, file)
    load_weights(module, LoadOptions(weights=Path(file), weights_key=key), "m.py:make")
    return module


def misfit(module: nn.Module, held: Any, key: str | None = None) -> tuple[str, str]:
    with pytest.raises(ParallelizeError) as caught:
        loaded(module, held, key)
    return str(caught.value), caught.value.hint


@pytest.mark.parametrize(
    ("held", "note"),
    [
        (HALF, ""),
        ({"epoch": 3, "state_dict": HALF}, "weights from 'state_dict'"),
        (prefixed("module."), "prefix 'module.' taken off"),
        (prefixed("_orig_mod."), "prefix '_orig_mod.' taken off"),
        (prefixed("module._orig_mod.net."), "prefix 'module._orig_mod.net.' taken off"),
        ({"model": prefixed("student."), "optimizer": {"state": {0: {"exp_avg": torch.ones(8)}}}}, "'student.'"),
        ({"a": {"b": [{"c": prefixed("x.")}]}}, "weights from 'a.b.0.c', prefix 'x.' taken off"),
        (prefixed("model.") | {"loss.weight": torch.ones(2), "k.v": torch.ones(1)}, "left out 'loss.weight', 'k.v'"),
        ({**HALF, "steps": 7, "name": "best"}, "left out 'steps', 'name'"),
        ({"model": HALF, "ema": {n: v.clone() for n, v in HALF.items()}}, "weights from 'model'"),
        ({"args": argparse.Namespace(lr=0.1, out=Path("runs")), "acc": np.float64(0.5), "net": HALF}, "from 'net'"),
        ({"history": np.arange(3.0), "net": HALF}, "from 'net'"),
        ({name.replace(".", "._orig_mod."): value for name, value in HALF.items()}, ""),
        ({name.replace(".", "._checkpoint_wrapped_module.module."): v for name, v in HALF.items()}, ""),
    ],
)
def test_a_state_is_found_under_keys_and_prefixes(
    home: Path, caplog: pytest.LogCaptureFixture, held: Any, note: str
) -> None:
    with caplog.at_level(logging.WARNING, "parallelize"):
        module = loaded(layers(), held)
    assert all(torch.equal(value, HALF[name]) for name, value in module.state_dict().items())
    assert (note in caplog.text) if note else not caplog.text


def test_several_states_that_fit_are_named_and_chosen_by_key(home: Path) -> None:
    held = {"state_dict": HALF, "ema": {"module": prefixed("module.", OTHER)}}
    message, hint = misfit(layers(), held)
    assert message == "w.pt holds several states that fit m.py:make: 'state_dict', 'ema.module.module'."
    assert hint == "Choose one with --weights-key ema.module.module."
    for key, state in {"ema": OTHER, "ema.module": OTHER, "ema.module.module": OTHER, "state_dict": HALF}.items():
        assert torch.equal(loaded(layers(), held, key).first.weight, state["first.weight"])
    message, _ = misfit(layers(), held, "teacher")
    assert message.startswith("w.pt has no weights under the key 'teacher': it has 'state_dict', ")


def test_two_networks_side_by_side_are_named_by_their_prefixes(home: Path) -> None:
    held = prefixed("teacher.") | prefixed("student.", OTHER)
    assert "'teacher', 'student'" in misfit(layers(), held)[0]
    assert torch.equal(loaded(layers(), held, "student").first.weight, OTHER["first.weight"])


def test_weights_are_loaded_from_safetensors(home: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(prefixed("module."), "w.safetensors")
    module = layers()
    load_weights(module, LoadOptions(weights=Path("w.safetensors")), "m.py:make")
    assert torch.equal(module.first.weight, HALF["first.weight"])


def test_weights_that_do_not_fit_are_refused_with_the_first_key(home: Path) -> None:
    missing = {name: value for name, value in HALF.items() if name != "first.weight"}
    cases = {
        "'first.weight' is missing": missing,
        "'first.weight' is missing, and 1 more keys do not fit": missing | {"third.weight": torch.zeros(1)},
        "'third.weight' is not in the model": HALF | {"third.weight": torch.zeros(1)},
        "'first.bias' has the shape 3, the model's 8": HALF | {"first.bias": torch.zeros(3)},
    }
    for sentence, weights in cases.items():
        torch.save(weights, "w.pt")
        message, hint = refusal("shop:small", "batchx4", weights=Path("w.pt"))
        assert message == f"w.pt does not fit shop:small: {sentence}."
        assert "very model" in hint
    message, _ = misfit(layers(), {"epoch": 1, "net": prefixed("module.", missing)})
    assert message == "w.pt does not fit m.py:make under 'net.module': 'first.weight' is missing."
    with pytest.raises(ParallelizeError) as caught:
        loaded(layers(), missing, file="model-00001-of-00002.bin")
    assert caught.value.hint == "It is one of several files: name model.bin.index.json instead."
    assert "a LoRA adapter" in misfit(layers(), {"first.lora_A.weight": torch.ones(2, 4)})[1]
