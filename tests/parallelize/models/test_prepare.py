"""What every job begins with: what stands between a network and a stack is told, and its data shares what it takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from parallelize.machine.device import CPU
from parallelize.models.prepare import prepare, weightiest
from parallelize.models.source import Source
from passes.stacks.find import Refusal
from tests.parallelize.small_models import images, vision


def test_the_reason_of_the_most_adds_is_quoted_whatever_their_names() -> None:
    odd = Refusal("add", "the term has no parameters")
    same = [Refusal(f"add_{i}", f"add_{i} reads mul_{i}, which is not the state") for i in (1, 2, 3)]
    assert weightiest([odd]) == "add: the term has no parameters"
    assert weightiest([odd, *same]) == "add_1 and 2 more: add_1 reads mul_1, which is not the state"


def test_all_parts_of_the_data_share_one_room_and_one_buffer_of_the_size_that_is_asked_for(tmp_path: Path) -> None:
    for name, count in (("fit", 40), ("test", 12)):
        np.savez(tmp_path / f"{name}.npz", images=images(count, 0).arrays["images"].numpy())
    source = Source(vision(2), inputs=tmp_path / "fit.npz", test_inputs=tmp_path / "test.npz")
    data = prepare(source, 0, lambda *_: None, CPU, 2**25).data
    parts = (data.fit, data.held_out, data.judge)
    assert {len(part) for part in parts} == {32, 8, 12}
    assert {part.buffer.bound for part in parts} == {2**25}
    assert len({id(part.buffer) for part in parts}) == len({id(part.room) for part in parts}) == 1
