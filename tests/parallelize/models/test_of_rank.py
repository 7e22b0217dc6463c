"""A program of one rank."""

from __future__ import annotations

import pytest

from parallelize.models.of_rank import of_rank
from parallelize.models.program import Program
from passes.errors import ParallelizeError
from passes.graph.operators import LINEAR
from tests.passes.drawn import calls
from tests.passes.models import EXACT, images, relative_error, scheduled, vision
from tests.passes.schedule.forms import PARA_FORMER, SUBLAYER
from tests.passes.spread.together import outputs


def _program() -> Program:
    return Program(scheduled(vision()[1], 8, PARA_FORMER), (), (), "vision")


def test_a_rank_runs_its_own_branches_as_wide_operations_and_computes_what_one_process_does() -> None:
    program = _program()
    parts = [of_rank(program, rank, 2, "group") for rank in range(2)]
    found = outputs([part.program.module for part in parts], images(5))
    assert max(relative_error(each, program.module(images(5))) for each in found) < EXACT
    unfused = of_rank(program, 0, 2, "group", fuses=False).program.module
    assert len(calls(unfused, LINEAR)) - len(calls(parts[0].program.module, LINEAR)) >= 4
    assert parts[0].record.matches[0].endswith("4 branches on 2 ranks, 50% on one")


def test_more_ranks_than_branches_are_refused() -> None:
    program = Program(scheduled(vision()[1], 8, SUBLAYER), (), (), "vision")
    with pytest.raises(ParallelizeError, match="the most branches on one level are 2"):
        of_rank(program, 0, 4, "group")
