"""`.pt` files: checkpoints load, a pickled module only with permission, damage is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.parallelize.models.sources.cases import Harmful, layers, load, refusal, small_checkpoint


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
        assert message == f"{file} is a pickled module, or holds other pickled objects: posix.mkdir."
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


@pytest.mark.parametrize("content", [b"junk", b"\x80\x02", b"<html></html>", b"h\x00.", bytes(range(256))])
def test_other_bytes_are_refused_as_no_file_of_pytorch(home: Path, content: bytes) -> None:
    Path("model.pt").write_bytes(content)
    assert refusal("model.pt")[0] == "model.pt is damaged or not a PyTorch file."
    assert refusal("shop:small", "batchx4", weights=Path("model.pt"))[0] == "model.pt is damaged or not a PyTorch file."


def test_a_damaged_checkpoint_is_refused_in_its_own_words(home: Path) -> None:
    small_checkpoint(home / "small.pt")
    value = torch.load("small.pt", weights_only=True)
    torch.save(value | {"format": "paraformer-checkpoint/9"}, "small.pt")
    assert refusal("small.pt")[0].startswith("small.pt has the format 'paraformer-checkpoint/9'")
    torch.save(value | {"state_dict": {}}, "small.pt")
    assert "do not fit its own config" in refusal("small.pt")[0]


def test_a_module_in_a_training_checkpoint_is_found_or_chosen_by_key(home: Path) -> None:
    first, second = nn.Linear(4, 2).eval(), nn.Linear(4, 2).eval()
    torch.save({"model": first, "epoch": 3}, "m.pt")
    x = torch.ones(1, 4)
    assert torch.equal(load("m.pt", "batchx4", allow_pickle=True).module(x), first(x))
    torch.save({"model": first, "ema": {"module": second}}, "m.pt")
    message, hint = refusal("m.pt", "batchx4", allow_pickle=True)
    assert message == "m.pt holds several modules: it has 'model', 'ema.module'."
    assert "--weights-key" in hint
    chosen = load("m.pt", "batchx4", allow_pickle=True, weights_key="ema.module")
    assert torch.equal(chosen.module(x), second(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_file_is_refused_without_a_warning(home: Path, recwarn: pytest.WarningsRecorder) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(4, 2), torch.ones(1, 4)), "script.pt")
    recwarn.clear()
    assert refusal("script.pt")[0] == "script.pt is a TorchScript archive."
    assert not recwarn.list


@pytest.mark.parametrize("file", ["w.pth", "w.ckpt", "w.bin", "w.safetensors", "model.safetensors.index.json"])
def test_weights_alone_ask_for_their_model(home: Path, file: str) -> None:
    torch.save({"state_dict": layers().state_dict(), "epoch": 1}, file)
    message, hint = refusal(file)
    assert message == f"{file} is a state dict: weights without a model."
    assert f"--weights {file}" in hint
