"""What the commands inspect and draw say, from Python."""

from __future__ import annotations

from pathlib import Path

import pytest

import parallelize
from passes.errors import ParallelizeError
from tests.parallelize.small_models import images, pairs, vision
from tests.parallelize.written import write


def test_a_program_is_inspected_and_so_is_a_file(tmp_path: Path) -> None:
    found = parallelize.inspect(vision(2), inputs=images(4, 0).arrays)
    assert [len(stack["terms"]) for stack in found["stacks"]] == [4]
    assert "operators" in parallelize.inspect(write(tmp_path / "a.onnx", 2))


def test_a_plan_is_drawn(tmp_path: Path) -> None:
    for name, plan in (("serial.svg", None), ("pairs.svg", pairs("none", 2))):
        parallelize.draw(vision(2), tmp_path / name, plan)
        assert (tmp_path / name).read_text().startswith("<svg")
    with pytest.raises(ParallelizeError, match="The plan has"):
        parallelize.draw(vision(2), tmp_path / "a.svg", pairs("none", 4))
