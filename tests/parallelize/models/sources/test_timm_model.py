"""timm:NAME builds a model of timm, or says what is missing."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from parallelize.models.sources import timm_model
from passes.errors import EnvironmentLackError
from tests.parallelize.models.sources.cases import load, refusal

HAS_TIMM = importlib.util.find_spec("timm") is not None
HAS_TORCHVISION = importlib.util.find_spec("torchvision") is not None
needs_timm = pytest.mark.skipif(
    not (HAS_TIMM and HAS_TORCHVISION), reason="timm and the torchvision that it needs are not installed"
)


def _lack() -> EnvironmentLackError:
    with pytest.raises(EnvironmentLackError) as caught:
        load("timm:resnet10t")
    return caught.value


def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("timm", "torchvision")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.skipif(not HAS_TIMM or HAS_TORCHVISION, reason="timm lacks nothing here, or is not here itself")
def test_timm_without_torchvision_ends_with_what_to_install() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "parallelize", "inspect", "timm:resnet10t"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 3
    error, hint = run.stderr.splitlines()
    assert error.endswith("timm does not import (it needs torchvision, which is not installed).")
    assert hint.startswith("hint:  Install the torchvision made for this PyTorch")


@pytest.mark.parametrize(("version", "cuda"), [("2.13.0+cpu", None), ("2.13.0+cu130", "13.0"), ("2.13.0", "13.0")])
def test_the_hint_names_a_torchvision_of_the_same_build(
    monkeypatch: pytest.MonkeyPatch, version: str, cuda: str | None
) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    hint = timm_model._torchvision_hint()
    assert "torch==2.13.0" in hint
    assert ("whl/cpu" in hint) == (cuda is None)


def test_without_timm_the_machine_lacks_something(monkeypatch: pytest.MonkeyPatch) -> None:
    _forget(monkeypatch)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if "editable" not in repr(f).lower()])
    error = _lack()
    assert str(error) == "timm:resnet10t cannot be built: timm is not installed."
    assert error.hint == 'Install it with `pip install "parallelize[timm]"`.'


@pytest.mark.parametrize(
    ("broken", "hint"),
    [
        ("operator torchvision::nms does not exist", "Install the torchvision made for this PyTorch"),
        ("no such layer", 'Install it again with `pip install --upgrade "parallelize[timm]"`.'),
    ],
)
def test_a_broken_timm_is_told_in_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, hint: str
) -> None:
    (tmp_path / "timm.py").write_text(f"raise RuntimeError({broken!r})\n")
    _forget(monkeypatch)
    monkeypatch.syspath_prepend(str(tmp_path))
    error = _lack()
    assert str(error) == f"timm:resnet10t cannot be built: timm does not import (RuntimeError: {broken})."
    assert error.hint.startswith(hint)


@needs_timm
def test_a_model_of_timm_knows_its_input_and_takes_weights(home: Path) -> None:
    import timm

    torch.manual_seed(0)
    model = timm.create_model("resnet10t", pretrained=False).eval()
    torch.save(model.state_dict(), "w.pt")
    program = load("timm:resnet10t", weights=Path("w.pt"))
    assert program.inputs[0].shape == ("batch", 3, 176, 176)
    images = torch.rand(1, 3, 176, 176)
    assert torch.allclose(program.module(images), model(images), atol=1e-5)


@needs_timm
def test_shapes_on_the_command_line_override(home: Path) -> None:
    assert load("timm:resnet10t", "1x3x64x64").inputs[0].shape == (1, 3, 64, 64)


@needs_timm
def test_unknown_names_are_refused_with_the_nearest(home: Path) -> None:
    message, hint = refusal("timm:resnet10")
    assert message == "timm has no model 'resnet10'."
    assert "resnet10t" in hint
    assert refusal("timm:hf-hub:someone/something")[0] == "timm has no model 'hf-hub:someone/something'."
    assert refusal("timm:resnet10t.nothing")[0].startswith("timm cannot build 'resnet10t.nothing' (")
