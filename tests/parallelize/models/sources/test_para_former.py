"""A checkpoint of the paraformer package is captured with the inputs that its config tells of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from paraformer.checkpoint import Checkpoint, save
from paraformer.config import TokenConfig
from paraformer.network import ParaFormer
from parallelize.data import parse_inputs
from parallelize.models.program import Program
from parallelize.models.sources import LoadOptions, load_program
from passes.errors import ParallelizeError
from passes.stacks.find import find_stacks
from tests.paraformer.models import randomised, sequences, tokens, vision

BOTH = ["input_ids", "attention_mask"]


def _saved(path: Path, model: ParaFormer) -> str:
    save(path, Checkpoint(model.config, model.state_dict()))
    return str(path)


def _program(reference: str, samples: dict[str, np.ndarray] | None = None, inputs: tuple[str, ...] = ()) -> Program:
    return load_program(reference, LoadOptions(input_specs=parse_inputs(inputs)), samples or {})


def _shapes(program: Program) -> dict[str, tuple[int | str, ...]]:
    return {spec.name: spec.shape for spec in program.inputs}


@pytest.mark.parametrize("task", ["classify", "next-token"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_token_model_reads_sequences_of_any_length_and_their_mask(tmp_path: Path, task: str, pooling: str) -> None:
    model = randomised(tokens(2, 2, task=task, pooling=pooling, length=20)).float()
    program = _program(_saved(tmp_path / "model.pt", model))
    assert _shapes(program) == dict.fromkeys(BOTH, ("batch", "tokens"))
    assert {spec.dtype for spec in program.inputs} == {torch.int64}
    for length in (5, 9):
        inputs = sequences(3, length)
        (outputs,) = program.flat_outputs(program.module(*inputs))
        torch.testing.assert_close(outputs, model(*inputs), rtol=0, atol=1e-5)
    assert [len(stack.terms) for stack in find_stacks(program.module).stacks] == [4, 4]


def test_sequences_too_short_to_vary_are_read_whole(tmp_path: Path) -> None:
    program = _program(_saved(tmp_path / "model.pt", randomised(tokens(2, length=6)).float()))
    assert _shapes(program) == dict.fromkeys(BOTH, ("batch", 6))


def test_only_inputs_that_the_data_has_are_read(tmp_path: Path) -> None:
    reference = _saved(tmp_path / "model.pt", randomised(tokens(2, length=20)).float())
    ids = np.ones((4, 7), np.int64)
    assert list(_shapes(_program(reference, {"input_ids": ids}))) == BOTH[:1]
    assert list(_shapes(_program(reference, {"input_ids": ids, "attention_mask": ids, "labels": ids}))) == BOTH


def test_shapes_that_are_given_are_taken(tmp_path: Path) -> None:
    reference = _saved(tmp_path / "model.pt", randomised(tokens(2, length=20)).float())
    assert _shapes(_program(reference, inputs=("input_ids:1x8@int64",))) == {"input_ids": (1, 8)}


@pytest.mark.parametrize("merge", ["added", "summed", "mean"])
def test_an_image_model_is_captured_however_its_branches_are_merged(tmp_path: Path, merge: str) -> None:
    model = randomised(vision(3, merge=merge, pooling="cls")).float()
    program = _program(_saved(tmp_path / "model.pt", model))
    images = torch.rand(3, 1, 8, 8) * 255
    (outputs,) = program.flat_outputs(program.module(images))
    torch.testing.assert_close(outputs, model(images), rtol=0, atol=1e-5)
    assert len(find_stacks(program.module).stacks) == 3


def test_a_checkpoint_that_does_not_fit_itself_is_refused_with_its_hint(tmp_path: Path) -> None:
    config = tokens(2)
    assert isinstance(config, TokenConfig)
    reference = str(tmp_path / "model.pt")
    save(tmp_path / "model.pt", Checkpoint(config, randomised(tokens(2, 2)).state_dict()))
    with pytest.raises(ParallelizeError, match="do not fit its own config") as caught:
        _program(reference)
    assert "parallelize train" in caught.value.hint
