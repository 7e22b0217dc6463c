"""`.pt` files: checkpoints load, a pickled module only with permission, damage is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.parallelize.references.cases import Harmful, layers, load, refusal, small_checkpoint


def test_a_checkpoint_knows_its_input(home: Path) -> None:
    model = small_checkpoint(home / "small.pt")
    program = load("small.pt")
    assert program.origin == "small.pt"
    assert program.inputs[0].shape == ("batch", 1, 28, 28)
    images = torch.rand(1, 1, 28, 28)
    assert torch.equal(program.module(images), model(images))


def test_a_checkpoint_takes_a_fixed_batch(home: Path) -> None:
    small_checkpoint(home / "small.pt")
    assert load("small.pt", "1x1x28x28").inputs[0].shape == (1, 1, 28, 28)


def test_a_plain_state_dict_is_refused_with_the_way_to_use_it(home: Path) -> None:
    torch.save(layers().state_dict(), "w.pt")
    message, hint = refusal("w.pt")
    assert message == "w.pt is a state dict: weights without a model."
    assert "module:factory --weights w.pt" in hint


def test_a_pickled_module_is_refused_and_not_run_without_permission(home: Path) -> None:
    torch.save(Harmful(), "new.pt")
    torch.save(Harmful(), "old.pth", _use_new_zipfile_serialization=False)
    for file in ("new.pt", "old.pth"):
        message, hint = refusal(file)
        assert message == f"{file} is a pickled module, or holds other pickled objects."
        assert "run code" in hint
        assert "--allow-pickle" in hint
    assert not Path("trace").exists()


def test_a_pickled_module_is_loaded_with_permission(home: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.Dropout())
    torch.save(model, "m.pt")
    program = load("m.pt", "batchx4", allow_pickle=True)
    assert torch.equal(program.module(torch.ones(1, 4)), model.eval()(torch.ones(1, 4)))


def test_a_pickle_that_is_no_module_or_has_lost_its_code_is_refused(home: Path) -> None:
    torch.save({"a": Path("b")}, "path.pt")
    assert refusal("path.pt", allow_pickle=True)[0] == "path.pt holds a dict, not a model."
    torch.save(Harmful(), "lost.pt")
    Path("trace").mkdir()
    message, hint = refusal("lost.pt", allow_pickle=True)
    assert message.startswith("lost.pt cannot be unpickled (FileExistsError:")
    assert "importable" in hint


@pytest.mark.parametrize("size", [0, 10, 1000, -30])
@pytest.mark.parametrize("file", ["small.pt", "model.pt2"])
def test_truncated_files_are_refused_as_damaged(
    home: Path, file: str, size: int, capfd: pytest.CaptureFixture[str]
) -> None:
    small_checkpoint(home / "small.pt")
    torch.export.save(torch.export.export(nn.Linear(4, 2).eval(), (torch.zeros(2, 4),)), "model.pt2")
    Path(file).write_bytes(Path(file).read_bytes()[:size])
    assert refusal(file)[0].startswith(f"{file} is damaged or ")
    assert capfd.readouterr().err == ""


def test_a_damaged_checkpoint_is_refused_in_its_own_words(home: Path) -> None:
    small_checkpoint(home / "small.pt")
    value = torch.load("small.pt", weights_only=True)
    torch.save(value | {"format": "paraformer-checkpoint/9"}, "small.pt")
    assert refusal("small.pt")[0].startswith("small.pt has the format 'paraformer-checkpoint/9'")
    torch.save(value | {"state_dict": {}}, "small.pt")
    assert "do not fit its own config" in refusal("small.pt")[0]
