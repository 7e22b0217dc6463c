"""Files of weights are read as they were written, and nothing else in them is run."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from parallelize.models.sources.state_files import is_state_dict, modules_in, read_weights, shard_hint
from passes.errors import EnvironmentLackError, ParallelizeError
from tests.parallelize.models.sources.cases import Harmful

STATE = {"first.weight": torch.ones(2, 3), "second.weight": torch.zeros(3)}


def read(path: str | Path, *, allow_pickle: bool = False) -> Any:
    return read_weights(Path(path), allow_pickle=allow_pickle)


def refusal(path: str | Path, *, allow_pickle: bool = False) -> str:
    with pytest.raises(ParallelizeError) as caught:
        read(path, allow_pickle=allow_pickle)
    return str(caught.value)


def holds(path: str | Path, *names: str) -> bool:
    held = read(path)
    return held.keys() == {*names} and all(torch.equal(held[name], STATE[name]) for name in names)


def in_shards(folder: Path, suffix: str) -> Path:
    """A tensor in each of two files, and the index of both."""
    safetensors = pytest.importorskip("safetensors.torch")
    save = safetensors.save_file if suffix == ".safetensors" else torch.save
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    folder.mkdir()
    files = {name: f"{stem}-0000{number}-of-00002{suffix}" for number, name in enumerate(STATE, 1)}
    for name, file in files.items():
        save({name: STATE[name]}, str(folder / file))
    index = folder / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    return index


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards_are_read_by_their_index_or_their_directory_and_none_may_be_missing(home: Path, suffix: str) -> None:
    index = in_shards(home / "saved", suffix)
    assert holds(index, *STATE)
    assert holds(index.parent, *STATE)
    shard = index.with_name(index.name.removesuffix(f"{suffix}.index.json") + f"-00002-of-00002{suffix}")
    assert holds(shard, "second.weight")
    assert shard_hint(shard) == f"It is one of several files: name {index.name} instead."
    assert shard_hint(Path("model-final.bin")) is None
    shard.unlink()
    assert refusal(index) == f"{index} names {shard.name}, which is missing."


@pytest.mark.parametrize("name", ["../b.bin", "/b.bin", "pytorch_model.bin.index.json", 3])
def test_an_index_leads_to_files_of_weights_beside_it_only(home: Path, name: Any) -> None:
    index = Path("pytorch_model.bin.index.json")
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    assert refusal(index) == f"{index} names {name!r}, which is no file of weights beside it."


def test_damaged_indices_and_shards_without_names_are_refused(home: Path) -> None:
    index = Path("model.bin.index.json")
    for text in ("{", "[]", '{"weight_map": []}', '{"weight_map": {"a": ["b"]}}', "\xff"):
        index.write_bytes(text.encode("latin1"))
        assert refusal(index) == f"{index} is damaged or no index of weights."
    torch.save([1, 2], "model-1-of-1.bin")
    index.write_text(json.dumps({"weight_map": {"a": "model-1-of-1.bin"}}))
    assert refusal(index) == "model-1-of-1.bin holds no tensors by name."


def test_plain_values_beside_weights_are_read_without_permission(home: Path) -> None:
    plain = {"args": argparse.Namespace(lr=0.1, out=Path("runs")), "score": np.float64(0.5), "curve": np.arange(3.0)}
    torch.save({"net": STATE, "epoch": 3, **plain}, "w.ckpt")
    held = read("w.ckpt")
    assert (held["args"].out, held["score"], held["curve"].tolist()) == (Path("runs"), 0.5, [0.0, 1.0, 2.0])


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_what_is_no_file_of_weights_is_refused_by_what_it_is(home: Path) -> None:
    torch.save(nn.Linear(2, 2), "module.pt")
    torch.save({"state_dict": STATE, "callback": Harmful()}, "objects.pt")
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), "script.pt")
    Path("cut.pt").write_bytes(Path("module.pt").read_bytes()[:200])
    Path("cut.safetensors").write_bytes(b"\x09")
    Path("empty").mkdir()
    Path("spread").mkdir()
    Path("spread/.metadata").touch()
    for file, sentence in {
        "module.pt": "module.pt holds more than tensors: torch.nn.modules.linear.Linear.",
        "objects.pt": f"objects.pt holds more than tensors: {os.name}.mkdir.",
        "script.pt": "script.pt is a TorchScript archive.",
        "cut.pt": "cut.pt is damaged or not a PyTorch file.",
        "cut.safetensors": "cut.safetensors is damaged or not a safetensors file.",
        "absent.pt": "absent.pt does not exist.",
        "empty": "empty has no weights: it has none of model.safetensors, model.safetensors.index.json, "
        "pytorch_model.bin, pytorch_model.bin.index.json.",
        "spread": "spread is a distributed checkpoint.",
    }.items():
        assert refusal(file) == sentence
    assert not Path("trace").exists()


def test_objects_are_unpickled_where_that_is_allowed_and_told_where_it_fails(home: Path) -> None:
    torch.save({"model": nn.Linear(2, 2)}, "w.pt")
    assert isinstance(read("w.pt", allow_pickle=True)["model"], nn.Linear)
    Path("trace").mkdir()
    torch.save(Harmful(), "lost.pt")
    assert refusal("lost.pt", allow_pickle=True).startswith("lost.pt cannot be unpickled (FileExistsError: ")


def test_safetensors_without_the_package_is_a_lack_of_the_machine(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    Path("w.safetensors").write_bytes(b"")
    with pytest.raises(EnvironmentLackError, match=r"^w.safetensors cannot be read: safetensors is not installed\.$"):
        read("w.safetensors")


def test_state_dicts_and_modules_are_found_in_mappings() -> None:
    assert is_state_dict({"epoch": 1, "net": {"state": STATE}})
    assert not any(map(is_state_dict, ({}, {"epoch": 1}, [STATE], {"w": torch.ones(1), "epoch": 1})))
    module = nn.Linear(2, 2)
    assert modules_in(module) == {"": module}
    assert modules_in({"model": module, "ema": {"module": module}, "epoch": 1}) == {
        "model": module,
        "ema.module": module,
    }
