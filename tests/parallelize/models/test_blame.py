"""An error of the model on data names the sample that fails alone, what it reads, and the node."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

from parallelize.data import Feed, Samples
from parallelize.models.blame import blaming
from parallelize.models.capture import capture
from parallelize.models.program import Program
from passes.errors import ParallelizeError


class Looked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, ids: Tensor, gain: Tensor) -> Tensor:
        return self.table(ids).mean(1) * gain


@functools.cache
def looked(batch: int | None = None) -> Program:
    example = (torch.zeros(batch or 2, 3, dtype=torch.int64), torch.ones(4))
    dims = None if batch else [{0: "batch"}, {}]
    return capture(Looked().eval(), example, dynamic=dims, origin="net")


def samples(*wrong: int, fixed: int | None = None) -> Samples:
    """Ten samples; those at some places have a number that is not in the table."""
    ids = torch.arange(30).reshape(10, 3) % 10
    ids[list(wrong), 1] = 50
    return Samples({"ids": ids, "gain": torch.ones(4)}, feeds={"gain": Feed(rows=0)}, fixed=fixed)


def blame(program: Program, data: Samples, start: int, size: int, what: str = "sample") -> str:
    with pytest.raises(ParallelizeError) as caught, blaming(program, data, start, size, what):
        program.module(*data.at(start, size))
    assert caught.value.hint == "Check the values of this sample, or the shapes that the model was captured with."
    return str(caught.value)


@pytest.mark.parametrize("fixed", [None, 5])
def test_the_first_sample_that_fails_alone_is_named_with_the_node_and_what_it_reads(fixed: int | None) -> None:
    message = blame(looked(fixed), samples(7, 8, fixed=fixed), 5, 5)
    assert message.startswith("net does not run on sample 7 at embedding (aten.embedding.default in table): ")
    assert message.endswith(f"It reads ids {fixed or 1}x3@int64 from 1 to 50, gain 4@float32 from 1 to 1.")


def test_where_no_sample_fails_alone_the_batch_is_named() -> None:
    program, data = looked(), samples()
    with pytest.raises(ParallelizeError) as caught, blaming(program, data, 8, 4, "test sample"):
        raise RuntimeError("no memory. And more")
    assert str(caught.value) == (
        "net does not run on test samples 8 to 9: no memory."
        " It reads ids 2x3@int64 from 4 to 9, gain 4@float32 from 1 to 1."
    )


def test_a_batch_of_one_is_called_by_its_number() -> None:
    told = r"^net does not run on sample 9: no\. It reads ids 1x3@int64 "
    with pytest.raises(ParallelizeError, match=told), blaming(looked(), samples(), 9, 4):
        raise RuntimeError("no")


def test_what_says_what_to_do_and_what_ends_the_program_pass_as_they_are() -> None:
    for error in (ParallelizeError("mine", "hint"), KeyboardInterrupt(), MemoryError()):
        with pytest.raises(type(error)) as caught, blaming(looked(), samples(), 0, 2):
            raise error
        assert caught.value is error
