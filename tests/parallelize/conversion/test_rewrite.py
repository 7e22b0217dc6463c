"""A module becomes a module in memory: the same networks and numbers as of a conversion, and no file."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from parallelize.conversion.convert import convert
from parallelize.conversion.options import ConvertOptions, EngineOptions
from parallelize.conversion.rewrite import Rewritten, rewrite
from parallelize.healing.options import HealOptions
from parallelize.models.source import Source
from passes.errors import CheckError, ParallelizeError
from tests.parallelize.conversion.conversions import LABELS, PLAN, Named, X, three_mlps


@pytest.fixture(scope="module")
def module() -> nn.Module:
    return Named().eval()


@pytest.fixture(scope="module")
def rewritten(module: nn.Module) -> Rewritten:
    return rewrite(module, {"x": X, "shift": 0.1 * X.flip(1)}, plan=PLAN)


def test_it_is_called_as_the_original_and_near_it(module: nn.Module, rewritten: Rewritten) -> None:
    values = {"x": X[:5], "shift": 0.1 * X[:5].flip(1)}
    ours, theirs = rewritten.module(**values), module(**values)
    assert list(ours) == ["logits"]
    error = (ours["logits"] - theirs["logits"]).norm() / theirs["logits"].norm()
    assert 0 < error < 0.5
    assert (rewritten.plan, rewritten.module.plan, rewritten.module.report) == (PLAN, PLAN, rewritten.report)
    assert "Named, 2 blocks deep, of 3, torch on cpu, made in memory" in repr(rewritten.module)


def test_what_was_measured_is_there_and_no_latency_is(rewritten: Rewritten) -> None:
    assert list(rewritten.scores) == list(rewritten.report.names)
    assert rewritten.scores["serial"]["kl"] == 0
    assert rewritten.scores["rewrite, refitted"]["kl"] < rewritten.scores["deletion, as is"]["kl"]
    assert all(network.onnxruntime_ms is None for network in rewritten.report.networks)
    shown = str(rewritten)
    assert "rewrite, refitted" in shown
    assert "speed" not in shown
    assert "ONNX" not in shown
    assert rewritten.table().row_count == len(rewritten.scores)


def test_a_loader_of_tuples_gives_the_same_network(module: nn.Module, rewritten: Rewritten) -> None:
    loader = DataLoader(TensorDataset(X, 0.1 * X.flip(1), LABELS), batch_size=16)
    found = rewrite(module, loader, plan=PLAN)
    assert torch.equal(found.module(X, X)["logits"], rewritten.module(X, X)["logits"])


def test_it_is_what_a_conversion_writes_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    found = rewrite(three_mlps(), [X], depth=2, options=ConvertOptions(refit="affine"))
    assert list(tmp_path.iterdir()) == []
    written = convert(
        three_mlps(), tmp_path / "out", inputs=[X], options=ConvertOptions(depth=2, refit="affine", rounds=1)
    )
    assert found.plan == written.plan
    assert torch.equal(found.module(X), torch.export.load(tmp_path / "out" / "model.pt2").module()(X))
    assert found.scores == {network.name: dict(network.errors) for network in written.report.networks}


def test_training_it_leaves_the_original_as_it_was(module: nn.Module, rewritten: Rewritten) -> None:
    before = {name: value.clone() for name, value in module.state_dict().items()}
    twin = pickle.loads(pickle.dumps(rewritten.module))
    with torch.no_grad():
        for parameter in rewritten.module.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    with torch.no_grad():
        for parameter in rewritten.module.parameters():
            parameter.sub_(1)
    assert torch.allclose(twin(X, X)["logits"], rewritten.module(X, X)["logits"], atol=1e-5)


def test_it_is_healed_and_judged_with_labels() -> None:
    healing = HealOptions(steps=20, batch_size=16, evaluate_every=5, learning_rate=3e-3)
    loader = DataLoader(TensorDataset(X, LABELS), batch_size=20)
    found = rewrite(three_mlps(), loader, plan=PLAN, heal=healing, labels="1")
    assert found.report.healing is not None
    assert "top1-drop" in found.report.serial.values


def test_what_cannot_be_is_refused_in_a_sentence(module: nn.Module) -> None:
    half = ConvertOptions(engine=EngineOptions(precision="fp16"))
    refused: list[tuple[str, Any]] = [
        ("A module needs example inputs", lambda: rewrite(module, plan=PLAN)),
        ("A precision or shapes are of files", lambda: rewrite(three_mlps(), X, options=half)),
        ("Only one of a plan, a depth", lambda: rewrite(three_mlps(), X, plan=PLAN, depth=2)),
        ("A Source names its data itself", lambda: rewrite(Source(three_mlps(), X), X)),
        ("The shapes of the inputs of Named are not known", lambda: rewrite(module, {"y": X}, plan=PLAN)),
        ("cannot be read", lambda: rewrite(three_mlps(), X, plan="gone.json")),
        ("training mode", lambda: rewrite(Named(), {"x": X, "shift": X})),
    ]
    for message, call in refused:
        with pytest.raises(ParallelizeError, match=message) as caught:
            call()
        assert caught.value.hint


def test_an_error_that_no_schedule_keeps_is_told() -> None:
    with pytest.raises(CheckError):
        rewrite(three_mlps(), X, max_error=1e-12)
