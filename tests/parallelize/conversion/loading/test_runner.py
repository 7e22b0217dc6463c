"""A file in what runs it: opened where it is moved to, freed when it is closed, its weights nowhere else."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from parallelize.backends.onnxruntime.backend import ONNXRUNTIME, ONNXRUNTIME_CUDA
from parallelize.backends.onnxruntime.session import OnnxRuntime
from parallelize.conversion.loading.load import load
from passes.errors import ParallelizeError
from tests.parallelize.conversion.loading.directories import given, module, same, write


def test_no_gradients_and_no_weights_are_in_it(tmp_path: Path) -> None:
    found = load(write(tmp_path), backend="onnxruntime")
    assert list(found.parameters()) == []
    assert not found(**given())["logits"].requires_grad
    with pytest.raises(ParallelizeError, match="onnxruntime keeps the weights of words in its own form") as caught:
        found.state_dict()
    assert 'backend="torch"' in caught.value.hint
    assert nn.ModuleList([found]).state_dict() == {}


def test_another_dtype_is_refused_and_the_same_device_changes_nothing(tmp_path: Path) -> None:
    found = load(write(tmp_path), backend="onnxruntime")
    with pytest.raises(ParallelizeError, match="keeps the dtypes"):
        found.half()
    assert found.to("cpu").float() is found
    assert same(found(**given()), module("dict")(**given()))


def test_on_another_device_it_is_opened_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ONNX Runtime of the CPU in the place of that of a GPU, which is not here."""
    started: list[bool] = []

    class Session(OnnxRuntime):
        def __init__(self, *args: Any, cuda: bool = False, **options: Any) -> None:
            started.append(cuda)
            super().__init__(*args, **options)
            self.device = torch.device("cuda" if cuda else "cpu")

    monkeypatch.setattr("parallelize.backends.onnxruntime.session.OnnxRuntime", Session)
    monkeypatch.setattr("parallelize.conversion.loading.load.choose_device", torch.device)
    monkeypatch.setattr(
        "parallelize.conversion.loading.runner.target_of",
        lambda *_: torch.device("cpu" if len(started) > 1 else "cuda"),
    )
    found = load(write(tmp_path), backend="onnxruntime", device="cpu")
    assert found.to("cuda") is found
    assert (found.backend, found.device.type) == (ONNXRUNTIME_CUDA.name, "cuda")
    assert same(found(**given()), module("dict")(**given()))
    assert found.to("cpu").backend == ONNXRUNTIME.name
    assert started == [False, True, False]


def test_closed_it_is_called_and_pickled_no_more(tmp_path: Path) -> None:
    with load(write(tmp_path), backend="onnxruntime") as found:
        assert same(found(**given()), module("dict")(**given()))
    for again in (lambda: found(**given()), lambda: pickle.dumps(found)):
        with pytest.raises(ParallelizeError, match="words is closed"):
            again()
