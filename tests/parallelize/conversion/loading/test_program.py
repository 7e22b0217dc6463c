"""A program in torch is a module: it moves with all that its graph makes, learns, and is pickled as it is now."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from parallelize.conversion.loading.load import load
from parallelize.conversion.loading.program import LoadedProgram
from parallelize.models.returned import Container
from passes.errors import ParallelizeError
from tests.parallelize.conversion.loading.directories import KINDS, given, module, same, write
from tests.parallelize.other_device import other_device


@pytest.fixture
def there() -> Iterator[torch.device]:
    with other_device() as device:
        yield device


def loaded(folder: Path, kind: Container = "dict") -> LoadedProgram:
    found = load(write(folder, kind) / "model.pt2", device="cpu")
    assert isinstance(found, LoadedProgram)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_it_moves_with_constants_and_with_what_was_captured_on_the_cpu(
    kind: Container, there: torch.device, tmp_path: Path
) -> None:
    found = loaded(tmp_path, kind)
    weights = [id(parameter) for parameter in found.parameters()]
    values, expected = given(), module(kind)(**given())
    found.to(there)
    assert found.device == there
    assert all(tensor.device == there for tensor in found.state_dict().values())
    answers = found(**{name: value.to(there) for name, value in values.items()})
    assert {value.device for value in torch.utils._pytree.tree_leaves(answers)} == {there}
    assert same(found(**values), expected)  # arguments of the CPU are moved, and the answer is moved back
    assert same(found.to("cpu")(**values), expected)
    assert [id(parameter) for parameter in found.parameters()] == weights  # so that optimizers keep theirs


def test_it_is_loaded_there(there: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parallelize.conversion.loading.load.choose_device", lambda _name: there)
    found = load(write(tmp_path))
    assert found.device == there
    assert same(found(**given()), module("dict")(**given()))


def test_it_learns_and_its_state_dict_brings_the_weights_back(tmp_path: Path) -> None:
    found, before = loaded(tmp_path), {}
    before.update({name: value.clone() for name, value in found.state_dict().items()})
    assert any(name.endswith("head.weight") for name in before)
    optimizer = torch.optim.SGD(found.parameters(), 0.1)
    found(**given())["logits"].square().mean().backward()
    optimizer.step()
    assert not same(found(**given()), module("dict")(**given()))
    found.load_state_dict(before)
    assert same(found(**given()), module("dict")(**given()))


def test_pickles_and_copies_hold_the_weights_of_now(tmp_path: Path) -> None:
    found = loaded(tmp_path)
    with torch.no_grad():
        next(found.parameters()).mul_(2)
    (tmp_path / "model.pt2").unlink()
    for twin in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        assert same(twin(**given()), found(**given()))
        assert (repr(twin), twin.inputs, list(twin.state_dict())) == (
            repr(found),
            found.inputs,
            list(found.state_dict()),
        )
        assert next(twin.parameters()).data_ptr() != next(found.parameters()).data_ptr()


def test_it_is_a_part_of_a_larger_module(tmp_path: Path) -> None:
    found = loaded(tmp_path, "tensor")
    larger = torch.nn.ModuleDict({"words": found}).eval()
    file = io.BytesIO()
    torch.save(larger.state_dict(), file)
    assert len(larger.state_dict()) == len(found.state_dict())


def test_training_mode_other_dtypes_and_calls_when_closed_are_refused(tmp_path: Path) -> None:
    found = loaded(tmp_path)
    for call in (found.train, found.half, found.double):
        with pytest.raises(ParallelizeError) as caught:
            call()
        assert caught.value.hint
    assert found.float() is found
    found.close()
    for again in (lambda: found(**given()), lambda: pickle.dumps(found)):
        with pytest.raises(ParallelizeError, match="is closed"):
            again()
    assert list(found.parameters()) == []
