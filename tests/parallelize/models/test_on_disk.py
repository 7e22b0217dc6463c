"""Large weights lie in a mapped file: the same graph and numbers, shared ones once, and in memory where no disk is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from parallelize.data.spill import folder
from parallelize.machine.mapped import is_mapped, let_go
from parallelize.models.capture import capture
from parallelize.models.on_disk import on_disk
from parallelize.models.placement import stored
from parallelize.models.widening import widened
from parallelize.terminal.progress import Told
from passes.graph.editing import clone
from passes.graph.outputs import flat_outputs
from passes.graph.parameters import is_learned, read_parameter, replace_parameter
from tests.parallelize.models.test_placement import Ramp, X, ramp


def _untold(what: str, _share: float | None) -> None:
    raise AssertionError(what)


def test_few_weights_stay_where_they_are() -> None:
    program = ramp()
    assert on_disk(program, _untold) is program


def test_weights_on_disk_are_the_same_numbers_parameters_stay_parameters_and_tied_ones_tied() -> None:
    program = ramp()
    there = on_disk(program, _untold, least=1)
    assert all(map(is_mapped, stored(there.module)))
    assert not any(map(is_mapped, stored(program.module)))
    for ours, theirs in zip(there.module.graph.nodes, program.module.graph.nodes, strict=True):
        assert ours.name == theirs.name
        if ours.op == "get_attr":
            assert torch.equal(read_parameter(there.module, ours), read_parameter(program.module, theirs))
            assert is_learned(there.module, ours) == is_learned(program.module, theirs)
    places = {tensor.data_ptr() for tensor in stored(there.module)}
    assert len(places) == len({tensor.data_ptr() for tensor in stored(program.module)})
    let_go()
    assert torch.equal(flat_outputs(there.module, [X])[0], flat_outputs(program.module, [X])[0])


def test_what_is_on_disk_already_is_not_written_again() -> None:
    program = on_disk(ramp(), _untold, least=1)
    module = clone(program.module)
    linear = next(node for node in module.graph.nodes if "linear" in str(node.target))
    replace_parameter(module, linear, 1, "other", 2 * read_parameter(module, linear.args[1]))
    there = on_disk(replace(program, module=module), _untold, least=1)
    assert all(map(is_mapped, stored(there.module)))
    before = {tensor.data_ptr() for tensor in stored(program.module)}
    assert len({tensor.data_ptr() for tensor in stored(there.module)} - before) == 1


def test_where_no_folder_takes_them_weights_stay_in_memory_and_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("parallelize.machine.mapped.tempfile.TemporaryFile", full)
    told: list[str] = []
    program = ramp()
    assert on_disk(program, lambda what, _share: told.append(what), least=1) is program
    (sentence,) = told
    assert isinstance(sentence, Told)
    assert sentence == (f"Weights of 320B stay in memory: {folder()} takes no file of them (No space left on device).")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_of_half_precision_is_widened_in_a_file_as_it_is_in_memory(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    program = capture(Ramp().eval().to(dtype), (torch.zeros(2, 3, dtype=dtype),), origin="ramp")
    expected, precision, _ = widened(program, _untold)
    monkeypatch.setattr("parallelize.models.on_disk.LEAST", 1)
    found, there, records = widened(program, _untold)
    assert (there, len(records)) == (precision, 1)
    assert {tensor.dtype for tensor in stored(found.module)} == {torch.float32}
    large = [tensor for tensor in stored(found.module) if tensor.numel() > 1]
    assert all(map(is_mapped, large))
    assert len({tensor.data_ptr() for tensor in large}) == len(large)
    assert [is_learned(found.module, node) for node in found.module.graph.find_nodes(op="get_attr")] == [
        is_learned(expected.module, node) for node in expected.module.graph.find_nodes(op="get_attr")
    ]
    assert torch.equal(flat_outputs(found.module, [X])[0], flat_outputs(expected.module, [X])[0])
    assert {tensor.dtype for tensor in stored(program.module)} == {dtype}
