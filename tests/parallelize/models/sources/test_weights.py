"""--weights loads what training loops write where it fits exactly, or says which key does not."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from parallelize.models.source import LoadOptions
from parallelize.models.sources.weights import load_weights
from passes.errors import EnvironmentLackError, ParallelizeError
from tests.parallelize.models.sources.cases import Harmful, layers, load, refusal

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


def test_a_wrapped_module_takes_the_state_of_what_it_wraps(home: Path) -> None:
    module = nn.Module()
    module.add_module("net", layers())
    assert torch.equal(loaded(module, HALF).net.first.weight, HALF["first.weight"])
    compiled = nn.Sequential(OrderedDict(_orig_mod=layers()))
    assert torch.equal(loaded(compiled, prefixed("module.")).state_dict()["_orig_mod.first.bias"], HALF["first.bias"])


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


class Hooked(nn.Module):
    """Renames, when it loads, what older versions called otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.new = nn.Linear(4, 2)
        self.register_load_state_dict_pre_hook(self._rename)

    @staticmethod
    def _rename(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
        for name in [name for name in state if name.startswith(f"{prefix}old.")]:
            state[name.replace("old.", "new.")] = state.pop(name)


def test_hooks_that_rename_count(home: Path) -> None:
    held = {"old.weight": torch.ones(2, 4), "old.bias": torch.ones(2)}
    assert loaded(Hooked(), held).new.weight.sum() == 8
    assert loaded(Hooked(), {"model": prefixed("module.", held)}).new.weight.sum() == 8


def tied() -> nn.Module:
    module = nn.Module()
    module.embed, module.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
    module.head.weight = module.embed.weight
    return module


def test_tied_weights_may_be_stored_once_and_counters_may_be_missing(home: Path) -> None:
    assert loaded(tied(), {"embed.weight": torch.ones(5, 4)}).head.weight.sum() == 20
    assert loaded(tied(), prefixed("module.", {"head.weight": torch.ones(5, 4)})).embed.weight.sum() == 20
    norm = nn.Sequential(nn.BatchNorm1d(3))
    held = norm.state_dict()  # with the versions of its layers
    del held["0.num_batches_tracked"]
    held["0.running_mean"] += 2
    assert loaded(nn.Sequential(nn.BatchNorm1d(3)), held)[0].running_mean.tolist() == [2, 2, 2]
    without = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=True))
    del without[0]._buffers["num_batches_tracked"]
    assert loaded(without, norm.state_dict() | {"0.num_batches_tracked": torch.tensor(3)})


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("written", [nn.utils.weight_norm, parametrizations.weight_norm])
@pytest.mark.parametrize("read", [nn.utils.weight_norm, parametrizations.weight_norm])
def test_weight_norm_of_either_kind_reads_either(
    home: Path, written: Callable[..., nn.Module], read: Callable[..., nn.Module]
) -> None:
    source, target = (nn.Sequential(nn.Identity(), kind(nn.Linear(4, 4))) for kind in (written, read))
    loaded(target, {"generator": source.state_dict()})
    x = torch.randn(2, 4)
    assert torch.allclose(source(x), target(x))


def test_a_buffer_that_is_computed_may_be_stored_if_it_is_the_same(home: Path) -> None:
    module = layers()
    module.register_buffer("positions", torch.arange(3), persistent=False)
    loaded(module, HALF | {"positions": torch.arange(3)})
    assert "'positions' is not in the model" in misfit(module, HALF | {"positions": torch.arange(3) + 1})[0]


def test_a_module_on_no_device_gets_its_tensors(home: Path) -> None:
    with torch.device("meta"):
        module = layers()
    assert torch.equal(loaded(module, prefixed("module.")).first.weight, HALF["first.weight"])


def test_quantized_weights_are_no_weights(home: Path) -> None:
    held = HALF | {"first.weight": torch.ones(8, 4, dtype=torch.int8)}
    assert "'first.weight' holds integers (int8), the model's floating-point numbers" in misfit(layers(), held)[0]


def test_shards_are_read_by_their_index_or_directory(home: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    files = {name: f"model-0000{1 + name.startswith('second')}-of-00002" for name in HALF}
    for suffix, save in {".safetensors": safetensors.save_file, ".bin": torch.save}.items():
        folder = home / suffix.strip(".")
        folder.mkdir()
        for file in set(files.values()):
            save({name: HALF[name] for name in HALF if files[name] == file}, str(folder / f"{file}{suffix}"))
        stem = "model" if suffix == ".safetensors" else "pytorch_model"
        index = folder / f"{stem}{suffix}.index.json"
        index.write_text(json.dumps({"weight_map": {name: f"{file}{suffix}" for name, file in files.items()}}))
        for path in (index, folder):
            program = load("shop:small", "batchx4", weights=path)
            assert program.module(torch.ones(1, 4)).tolist() == [[10.5, 10.5]]
        message, hint = refusal("shop:small", "batchx4", weights=folder / f"model-00001-of-00002{suffix}")
        assert "'second.weight' is missing" in message
        assert f"name model{suffix}.index.json" in hint
        (folder / f"model-00002-of-00002{suffix}").unlink()
        assert "which is missing" in refusal("shop:small", "batchx4", weights=index)[0]
    index.write_text('{"weight_map": {"a": "../b.bin"}}')
    assert "is no file beside it" in refusal("shop:small", "batchx4", weights=index)[0]


def test_weights_are_loaded_from_safetensors_with_tied_ones_stored_once(home: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(prefixed("module."), "w.safetensors")
    program = load("shop:small", "batchx4", weights=Path("w.safetensors"))
    assert program.module(torch.ones(1, 4)).tolist() == [[10.5, 10.5]]
    safetensors.save_model(tied(), "tied.safetensors")
    load_weights(tied(), LoadOptions(weights=Path("tied.safetensors")), "m.py:make")


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
    assert "a LoRA adapter" in misfit(layers(), {"first.lora_A.weight": torch.ones(2, 4)})[1]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_weights_that_are_no_state_dict_are_refused(home: Path) -> None:
    torch.save([1, 2], "list.pt")
    torch.save(nn.Linear(2, 2), "module.pt")
    torch.save({"state_dict": HALF, "callback": Harmful()}, "objects.pt")
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), "script.pt")
    Path("cut.pt").write_bytes(Path("module.pt").read_bytes()[:200])
    Path("empty").mkdir()
    for file, sentence in {
        "list.pt": "list.pt holds no state dict.",
        "module.pt": "module.pt holds more than tensors: torch.nn.modules.linear.Linear.",
        "objects.pt": "objects.pt holds more than tensors: posix.mkdir.",
        "script.pt": "script.pt is a TorchScript archive.",
        "cut.pt": "cut.pt is damaged or not a PyTorch file.",
        "absent.pt": "absent.pt does not exist.",
        "empty": "empty has no weights: it has none of model.safetensors, ",
    }.items():
        assert refusal("shop:small", "batchx4", weights=Path(file))[0].startswith(sentence)
    assert not Path("trace").exists()


def test_objects_beside_weights_are_unpickled_where_that_is_allowed(home: Path) -> None:
    holder = layers()
    holder.load_state_dict(HALF)
    torch.save({"model": holder, "epoch": 1}, "w.pt")
    program = load("shop:small", "batchx4", weights=Path("w.pt"), allow_pickle=True)
    assert program.module(torch.ones(1, 4)).tolist() == [[10.5, 10.5]]


def test_safetensors_without_the_package_say_what_to_install(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    Path("w.safetensors").write_bytes(b"")
    with pytest.raises(EnvironmentLackError, match=r"w.safetensors cannot be read: safetensors is not installed\."):
        load("shop:small", "batchx4", weights=Path("w.safetensors"))
